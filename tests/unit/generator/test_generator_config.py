"""The generator's settings that only hold together, and what starting it costs."""

import subprocess
import sys

import pytest

from services.generator.config import GeneratorConfig
from tandem.config import load
from tandem.errors import ConfigError


def test_another_server_needs_an_address() -> None:
    with pytest.raises(ConfigError, match="GENERATOR_OPENAI_URL must be set"):
        load(GeneratorConfig, "GENERATOR", {"GENERATOR_BACKEND": "openai"})
    url = "http://127.0.0.1:8000/v1"
    config = load(GeneratorConfig, "GENERATOR", {"GENERATOR_BACKEND": "openai", "GENERATOR_OPENAI_URL": url})
    assert config.openai_url == url


def test_before_another_server_nothing_of_torch_is_imported() -> None:
    heavy = "{'torch', 'transformers', 'safetensors', 'peft'} & set(sys.modules)"
    code = f"import sys, services.generator.__main__, services.generator.backend.openai; print(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
