"""What runs a container: Docker, a bare OCI runtime, or the sandbox."""
