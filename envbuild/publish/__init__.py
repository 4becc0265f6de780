"""Publishing: push, SBOM, provenance, verdict, the tag; pull and verify what somebody published."""
