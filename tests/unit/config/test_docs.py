"""The reference of settings in docs/configuration.md is current, and has what a reader looks for."""

from pathlib import Path

from tests.unit.written_parts import check_current, check_updated
from trtllm_openai.config import docs
from trtllm_openai.config.flags import flags


def rows() -> dict[str, list[str]]:
    """The cells of each setting's row."""
    lines = [line for line in docs.tables().splitlines() if line.startswith("| <a id=")]
    return {line.split('"')[1]: [cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines}


def test_the_page_is_current() -> None:
    check_current(docs.PART, "configuration.md")


def test_a_stale_page_is_updated(tmp_path: Path) -> None:
    check_updated(docs.PART, "configuration.md", ("0 to 65535", "0 to 7"), tmp_path)


def test_every_setting_has_a_row_with_its_names() -> None:
    settings = {key: flag for key, flag in flags().items() if flag.kind != "section"}
    assert list(rows()) == list(settings)
    for key, cells in rows().items():
        names, _, description = cells
        assert names.endswith(f"**`{key}`**<br>`{settings[key].flag}`<br>`{settings[key].variable}`")
        assert description


def test_types_and_defaults() -> None:
    def shown(key: str) -> list[str]:
        return rows()[key][1].split("<br>default ")

    assert shown("port") == ["integer 0 to 65535", "`8000`"]
    assert shown("workers") == ["integer > 0, or null", "`null`"]
    assert shown("web") == ["true or false", "`true`"]
    assert shown("log_level") == ["`debug`, `info`, `warning`, `error`", "`info`"]
    assert shown("limits.queue_timeout") == ["number > 0, ≤ 604800, or null", "`60.0`"]
    assert shown("torch.kv_cache_memory_fraction") == ["number > 0, ≤ 1", "`0.9`"]
    assert shown("default_sampling.temperature") == ["number 0 to 2, or null", "`null`"]
    assert shown("tensorrt_llm.lora_adapters") == ["map of text to text", "`{}`"]
    assert shown("synthetic.script") == ["list", "`[]`"]
