"""Ask torch, in the image's virtual environment, what it was built for and what it sees; prints JSON."""

from __future__ import annotations

import json
import warnings

if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            import torch

            flags = getattr(torch._C, "_cuda_getArchFlags", lambda: "")()
            told: dict[str, object] = {
                "version": torch.__version__,
                "cuda": torch.version.cuda,
                "architectures": (flags or "").split(),
                "available": torch.cuda.is_available(),
                "count": torch.cuda.device_count(),
            }
        except Exception as error:  # a broken environment may raise anything: it is what is asked for
            told = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({**told, "warnings": [str(item.message) for item in heard]}))
