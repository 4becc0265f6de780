"""OCI digests, descriptors, layers, images and layouts; tars and trees of others. Knows nothing of Python, CUDA or Debian."""
