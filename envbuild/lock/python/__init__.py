"""Python packages: uv resolves, the simple API tells about files, wheels are chosen by tag."""
