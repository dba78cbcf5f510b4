"""Run the official JSON-Schema-Test-Suite through guides: `make json-schema-suite`.

The suite is in the source distribution of `jsonschema`, which is downloaded into `build/json-schema-suite`.
For each schema that is accepted, every document of the suite is written byte by byte, valid ones with their
properties in the schema's order, and random walks through the masks are validated. The exit status is 1 if a
walk gave an invalid document. What is said of XGrammar is what it accepts of the same documents.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tarfile
import venv
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from trtllm_openai.engines.torch.guides import GuideMatcher
from trtllm_openai.engines.torch.json_schema import SchemaError
from trtllm_openai.engines.torch.keywords import Validator
from trtllm_openai.errors import InvalidRequest

CACHE = Path(__file__).parents[1] / "build" / "json-schema-suite"
VERSION = "4.25.1"
BUILD = ["hatchling", "hatch-vcs", "hatch-fancy-pypi-readme"]
DRAFTS = {
    "draft3": jsonschema.Draft3Validator,
    "draft4": jsonschema.Draft4Validator,
    "draft6": jsonschema.Draft6Validator,
    "draft7": jsonschema.Draft7Validator,
    "draft2019-09": jsonschema.Draft201909Validator,
    "draft2020-12": jsonschema.Draft202012Validator,
}
END = 256
WALKS = 8
LONGEST_WALK = 400

Writable = Callable[[Any, Any], bool]
"""Whether a document can be written under a schema. Raises `InvalidRequest` if the schema is refused."""


def suite() -> Path:
    """The directory with the suite's drafts; downloaded if it is not there."""
    tests = CACHE / f"jsonschema-{VERSION}" / "json" / "tests"
    if not tests.is_dir():
        builder = CACHE / "venv"
        venv.create(builder, with_pip=True)
        pip = [str(builder / "bin" / "pip"), "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *BUILD], check=True)
        options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(CACHE)]
        subprocess.run([*pip, "download", *options, f"jsonschema=={VERSION}"], check=True)
        with tarfile.open(CACHE / f"jsonschema-{VERSION}.tar.gz") as archive:
            archive.extractall(CACHE, filter="data")
    return tests


def groups(tests: Path, draft: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each schema of a draft with its documents, and a name."""
    for file in sorted((tests / draft).glob("*.json")):
        for group in json.loads(file.read_text(encoding="utf-8")):
            yield f"{draft}/{file.stem}: {group['description']}", group


def in_order(document: Any, schema: Any) -> Any:
    """The document with its properties in the order of the schema's."""
    if isinstance(document, list):
        return [
            in_order(item, schema.get("items") if isinstance(schema, dict) else None) for item in document
        ]
    if not isinstance(document, dict):
        return document
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    names = [name for name in properties if name in document]
    names += [name for name in document if name not in properties]
    return {name: in_order(document[name], properties.get(name)) for name in names}


def walk(matcher: GuideMatcher, rng: random.Random) -> bytes | None:
    """Random allowed bytes up to the end of the text; None if it did not end in time."""
    text = bytearray()
    while len(text) < LONGEST_WALK:
        mask = np.zeros(9, dtype=np.int32)
        matcher.fill_mask(mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), count=257, bitorder="little"))
        if not len(allowed):
            return None
        if END in allowed and (len(allowed) == 1 or rng.random() < 0.3):
            return bytes(text)
        # Half of the time something that closes, so that texts end.
        closing = [byte for byte in allowed if chr(byte) in ']}"']
        byte = int(rng.choice(closing) if closing and rng.random() < 0.5 else rng.choice(allowed))
        if byte == END:
            return bytes(text)
        text.append(byte)
        if not matcher.accept_token(byte):
            return None
        if matcher.is_terminated():
            return bytes(text)
    return None


def xgrammar_writable() -> Writable:
    """The same question to XGrammar."""
    import xgrammar

    vocabulary = [bytes([byte]) for byte in range(256)]
    info = xgrammar.TokenizerInfo([*vocabulary, b"</s>"], stop_token_ids=[END])
    compiler = xgrammar.GrammarCompiler(info)

    def writable(schema: Any, document: Any) -> bool:
        try:
            compiled = compiler.compile_json_schema(
                json.dumps(schema), any_whitespace=False, separators=(",", ":"), strict_mode=False
            )
        except Exception as error:  # it has classes of its own
            raise InvalidRequest(str(error)) from error
        matcher = xgrammar.GrammarMatcher(compiled)
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
        return bool(matcher.accept_string(text) and matcher.accept_token(END))

    return writable


def documents(tests: Path, writable: Writable, *, verbose: bool) -> Counter[str]:
    """Count what can be written of the documents of all drafts."""
    count: Counter[str] = Counter()
    for draft in DRAFTS:
        for name, group in groups(tests, draft):
            count["schemas"] += 1
            try:
                writable(group["schema"], None)
            except (InvalidRequest, SchemaError):
                count["schemas refused"] += 1
                continue
            for test in group["tests"]:
                kind = "valid" if test["valid"] else "invalid"
                count[kind] += 1
                document = in_order(test["data"], group["schema"]) if test["valid"] else test["data"]
                if writable(group["schema"], document):
                    count[f"{kind} written"] += 1
                elif test["valid"] and verbose:
                    print(f"not writable: {name}: {json.dumps(document)[:100]}")
                if not test["valid"] and verbose and writable(group["schema"], document):
                    print(f"INVALID written: {name}: {json.dumps(document)[:100]}")
    return count


def check(checker: Any, schema: Any, text: bytes) -> None:
    """Raise `ValidationError` for an invalid document, or `ValueError` for one that is not JSON."""
    try:
        checker(schema).validate(json.loads(text))
    except jsonschema.ValidationError as error:
        if error.validator != "multipleOf":
            raise
        # In binary 51.83 is no multiple of 0.0001.
        exact = json.loads(json.dumps(schema), parse_float=Decimal)
        checker(exact).validate(json.loads(text, parse_float=Decimal))


def walks(tests: Path, validator: Validator) -> Counter[str]:
    """Count documents that random walks gave, and those of them that are invalid."""
    count: Counter[str] = Counter()
    rng = random.Random(7)
    for draft, checker in DRAFTS.items():
        for name, group in groups(tests, draft):
            for _ in range(WALKS):
                try:
                    text = walk(validator.compile(group["schema"]), rng)
                except (InvalidRequest, SchemaError):
                    break
                if text is None:
                    count["without an end"] += 1
                    continue
                count["documents"] += 1
                try:
                    check(checker, group["schema"], text)
                except (ValueError, jsonschema.ValidationError) as error:
                    count["invalid"] += 1
                    print(f"INVALID walk: {name}: {text!r}: {str(error).splitlines()[0]}")
                except Exception as error:
                    count["not checked"] += 1
                    print(f"not checked: {name}: {type(error).__name__}")
    return count


def show(title: str, count: Counter[str]) -> None:
    """Print the counts on one line."""
    print(f"{title}: " + ", ".join(f"{key} {value}" for key, value in count.items()))


def main() -> int:
    """Run the suite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verbose", action="store_true", help="name each document that was not as expected")
    verbose = parser.parse_args().verbose
    tests = suite()
    validator = Validator()
    show("llguidance", documents(tests, validator.writable, verbose=verbose))
    found = walks(tests, validator)
    show("random walks", found)
    try:
        show("xgrammar", documents(tests, xgrammar_writable(), verbose=False))
    except ImportError:
        print("xgrammar is not installed")
    return int(found["invalid"] > 0)


if __name__ == "__main__":
    sys.exit(main())
