"""What implements the ports. Only ``bootstrap`` names an adapter."""
