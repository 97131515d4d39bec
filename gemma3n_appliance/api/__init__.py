"""The only Falcon code: one resource per endpoint, and the layers around them."""
