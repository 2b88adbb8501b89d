"""Which sample stands at which position of an epoch, and which positions a step and a rank take."""
