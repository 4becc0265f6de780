"""Programs that lie in the image. They run there without envbuild; nothing here imports it."""
