"""The Lightning side: modules, data module, callbacks."""
