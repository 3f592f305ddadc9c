"""How a component names its model: the options that all of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from haystack.utils import ComponentDevice, Secret

from rocketqa_haystack.encoders.precision import DTYPES

DEFAULT_TOKEN = Secret.from_env_var(["HF_API_TOKEN", "HF_TOKEN"], strict=False)


class ModelOptions:
    """The options of `from_pretrained` in the form that Haystack serialises."""

    def __init__(
        self,
        model: str | Path,
        device: ComponentDevice | None,
        token: Secret | None,
        dtype: str,
        revision: str | None,
        local_files_only: bool,
        trust_remote_code: bool,
    ) -> None:
        if not isinstance(model, str | Path) or not str(model):
            raise TypeError(f"model must be a folder or a name, but got {model!r}")
        if dtype != "auto" and dtype not in DTYPES:
            raise ValueError(f"dtype must be one of auto, {', '.join(DTYPES)}, but got {dtype!r}")
        self.model = str(model)
        self.device = device
        self.token = token
        self.dtype = dtype
        self.revision = revision
        self.local_files_only = local_files_only
        self.trust_remote_code = trust_remote_code

    def to_init_parameters(self) -> dict[str, Any]:
        """The options as a component's init parameters, for `default_to_dict`."""
        return dict(vars(self))

    def from_pretrained_arguments(self) -> dict[str, Any]:
        """The options as keyword arguments of `from_pretrained`."""
        device = ComponentDevice.resolve_device(self.device).to_torch_str()
        token = self.token.resolve_value() if self.token is not None else None
        return {**vars(self), "device": device, "token": token}
