"""OCI digests, descriptors, layers, images, layouts; tars and trees of others. Knows no Python, CUDA or Debian."""
