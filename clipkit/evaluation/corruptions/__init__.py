"""Common corruptions of images, made on the fly."""
