"""From the bytes of a sound file to a log-mel spectrogram."""
