"""Which floating-point type to compute in."""

from __future__ import annotations

import torch

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch type for a name; `auto` is bfloat16 where the processor or GPU computes it natively, else float32.

    Raises:
        ValueError: An unknown name.
    """
    if dtype == "auto":
        return torch.bfloat16 if computes_bfloat16(device) else torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of auto, {', '.join(DTYPES)}, not {dtype!r}")
    return DTYPES[dtype]


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions; emulation, which is slower than float32, does not count."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return device.type == "xpu"
