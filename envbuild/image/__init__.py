"""From a lock to an image: plan (a pure function) and assemble."""
