"""The official RocketQA models: names, kinds, addresses and md5 sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["dual encoder", "cross-encoder"]

#: Where the archives lie, as NAME.tar.gz.
BASE_URL = "https://rocketqa.bj.bcebos.com/RocketQAModels"


@dataclass(frozen=True)
class OfficialModel:
    """One of the published archives.

    Attributes:
        name: The official name.
        kind: What it holds.
        md5: Of the archive, as the official toolkit checks it.
        purpose: What the model is for, in a few words.
    """

    name: str
    kind: Kind
    md5: str
    purpose: str

    @property
    def archive(self) -> str:
        """The archive's file name."""
        return f"{self.name}.tar.gz"

    @property
    def url(self) -> str:
        """The archive's address."""
        return f"{BASE_URL}/{self.archive}"


OFFICIAL_MODELS = {
    model.name: model
    for model in (
        OfficialModel("v1_marco_de", "dual encoder", "d8210e4080935bd7fdad7a394cd60b66", "English, MS MARCO"),
        OfficialModel("v1_marco_ce", "cross-encoder", "caec5aedc46f22edd7107ecd793fc7fb", "English, MS MARCO"),
        OfficialModel("v1_nq_de", "dual encoder", "cfeb70f82087b8a47bb0d6d6cfcd61c5", "English, Natural Questions"),
        OfficialModel("v1_nq_ce", "cross-encoder", "15aac78d70cc25994016b8a30d80f12c", "English, Natural Questions"),
        OfficialModel("pair_marco_de", "dual encoder", "b4080ffa2999525e5ba2aa1f4e03a9e8", "English, MS MARCO (PAIR)"),
        OfficialModel(
            "pair_nq_de", "dual encoder", "d770bc379ec6def7e0588ec02c80ace2", "English, Natural Questions (PAIR)"
        ),
        OfficialModel("v2_marco_de", "dual encoder", "4ce64ff35d1d831f0ca989e49abde227", "English, MS MARCO"),
        OfficialModel(
            "v2_marco_ce", "cross-encoder", "915ea7ff214a4a92a3a1e1d56c3fb469", "English, MS MARCO, jointly trained"
        ),
        OfficialModel("v2_nq_de", "dual encoder", "8f177aa75cadaad6656dcd981edc983b", "English, Natural Questions"),
        OfficialModel("zh_dureader_de", "dual encoder", "39811675289c311236c667ad57ebd2d2", "Chinese, DuReader"),
        OfficialModel("zh_dureader_ce", "cross-encoder", "11caeb179febc5f0a55fa10ae3f2d123", "Chinese, DuReader"),
        OfficialModel(
            "zh_dureader_de_v2", "dual encoder", "889e62b0091bc350622549b57a2616ec", "Chinese, DuReader (RocketQAv2)"
        ),
        OfficialModel(
            "zh_dureader_ce_v2", "cross-encoder", "552675c98c546e798a33cc84325921f6", "Chinese, DuReader (RocketQAv2)"
        ),
    )
}
