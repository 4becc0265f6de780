"""OCI digests, descriptors, layers, images and layouts. Knows nothing of Python, CUDA or Debian."""
