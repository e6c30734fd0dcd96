"""HTTP: the door, the operators' routes, problem documents."""
