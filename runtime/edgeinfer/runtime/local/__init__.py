"""What a device shows on the spot: metrics, a page with the live picture, and the control socket."""
