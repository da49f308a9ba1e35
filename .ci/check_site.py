"""The site can be built: all that can be known without Quarto.

A copy of the project is staged as nbdev_docs stages it (nbs/ → _proc/), then the configuration is put together as Quarto
does it, and each page of the sidebar is looked at. One line a problem.
"""
import ast, json, os, re, subprocess, sys, tempfile
from pathlib import Path

import nbformat, yaml

import common, sidebar
from common import directives, exported, load, notebooks, page_name, picture_of, prose, report, text, where

max_picture, max_notebook = 100_000, 1_500_000
machine_path = re.compile(r"(?<![\w.:/~$}-])/(?:work|tmp|root|home|Users|private|mnt|opt|srv|var/folders)/[\w.]|\b[A-Z]:\\\\?Users\b")
link_in_markdown = re.compile(r'\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)|<(?:a|img)\b[^>]*?(?:href|src)="([^"]+)"')
stage_script = """
import nbdev.doclinks, nbdev.quarto as q, nbdev.serve as s
q.refresh_quarto_yml(); nbdev.doclinks._build_modidx(); q.nbdev_sidebar.__wrapped__()
if __name__ == "__main__": s.proc_nbs(n_workers=2)
"""


def stage(copy):
    "Stage the site in the folder `copy`; what went wrong if that fails."
    common.copy_to(copy)
    info = copy/"dfml_nb-0.dist-info"   # so that names become links also where the library is not installed
    info.mkdir()
    (info/"METADATA").write_text("Metadata-Version: 2.1\nName: dfml_nb\nVersion: 0\n")
    (info/"entry_points.txt").write_text("[nbdev]\ndfml_nb = dfml_nb._modidx:d\n")
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {"PYTHONPATH": str(copy)}
    p = subprocess.run([sys.executable, "-c", stage_script], cwd=copy, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if not p.returncode: return []
    lines = p.stderr.splitlines()
    named = [i for i, l in enumerate(lines) if re.match(r'"?(\w+\.)*\w*(Error|Exception|Exit)\b', l)]   # causes before consequences
    source = [l.strip() for l in lines[named[-1]+1:] if l.strip()] if named else lines[-1:]
    return ["staging failed: " + " <- ".join(dict.fromkeys(lines[i].strip('"') for i in reversed(named))) + f" {source[:1]}"]


def merged(a, b):
    "Two configurations as Quarto merges them: dictionaries by key, lists one after the other, else the later one."
    if isinstance(a, dict) and isinstance(b, dict): return {k: merged(a[k], b[k]) if k in a and k in b else (b if k in b else a)[k] for k in a | b}
    return a + b if isinstance(a, list) and isinstance(b, list) else b


def configuration(proc, problems):
    "The configuration Quarto will see; says what is missing."
    try:
        base = yaml.safe_load((proc/"_quarto.yml").read_text())
        cfg = {}
        for name in base.get("metadata-files", []):
            path = proc/name
            if path.exists(): cfg = merged(cfg, yaml.safe_load(path.read_text()) or {})
            else: problems.append(f"nbs/_quarto.yml: includes {name}, which does not exist")
        cfg = merged(cfg, base)
    except (OSError, yaml.YAMLError) as e: problems.append(f"configuration: {e}"); return {}
    if "../_quarto.yml" not in base.get("metadata-files", []): problems.append("nbs/_quarto.yml: does not include ../_quarto.yml")
    ini, site, html = common.settings(), cfg.get("website", {}), cfg.get("format", {}).get("html", {})
    if cfg.get("project", {}).get("output-dir") != ini["doc_path"]: problems.append("configuration: output-dir is not doc_path of settings.ini")
    if site.get("title") != ini["title"]: problems.append(f"configuration: title is {site.get('title')!r}, in settings.ini {ini['title']!r}")
    for key in ("theme", "css"):
        if key not in html: problems.append(f"configuration: format.html.{key} is missing")
    for name in filter(None, (html.get("css"), cfg.get("bibliography"))):
        if not (proc/name).exists(): problems.append(f"configuration: {name} does not exist in nbs/")
    return cfg


def pages_of(contents):
    "The pages of a sidebar, in order."
    for c in contents or []:
        if isinstance(c, str): yield c
        else:
            if "href" in c: yield c["href"]
            yield from pages_of(c.get("contents"))


def slug(heading):
    "The anchor Pandoc gives to a heading."
    explicit = re.search(r"\{[^}]*#([\w.:-]+)[^}]*\}\s*$", heading)
    if explicit: return explicit[1]
    s = re.sub(r"\{[^}]*\}\s*$", "", heading)
    s = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", s).replace("`", "").replace("*", "").replace("$", "")
    s = re.sub(r"[^\w\s.-]", "", s.lower())
    return re.sub(r"\s+", "-", re.sub(r"^[^a-z]+", "", s.strip()))


def markdown_of(nb):
    "All text of a staged page that can hold links: its Markdown cells, and the outputs that are Markdown or HTML. As (index, cell, text)."
    for i, c in enumerate(nb["cells"]):
        if c["cell_type"] == "markdown": yield i, c, text(c["source"])
        for o in c.get("outputs", []):
            for kind in ("text/markdown", "text/html"):
                if kind in o.get("data", {}): yield i, c, text(o["data"][kind])


def anchors(nb):
    "All anchors of a staged page."
    found = set()
    for _, _, md in markdown_of(nb):
        outside = re.sub(r"^(`{3,}|~{3,}).*?^\1", "", md, flags=re.S | re.M)
        for h in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", outside, flags=re.M):
            s, n = slug(h), 1
            while s in found: s = f"{slug(h)}-{n}"; n += 1
            found.add(s)
        found |= set(re.findall(r"\{[^}]*?#([\w.:-]+)", md)) | set(re.findall(r'\bid="([^"]+)"', md))
    return found | {directives(text(c["source"])).get("label", "") for c in nb["cells"] if c["cell_type"] == "code"}


def options(cell, at, problems):
    "The cell options as Quarto reads them: YAML."
    lines = [re.match(r"#\s*\|\s?(.*)", l) for l in text(cell["source"]).splitlines()]
    block = "\n".join(m[1] for m in lines[:next((i for i, m in enumerate(lines) if not m), len(lines))])
    try: found = yaml.safe_load(block) or {}
    except yaml.YAMLError as e: problems.append(f"{at}: cell options are no valid YAML ({str(e).splitlines()[0]}); put the text in quotes"); return None
    if not isinstance(found, dict): problems.append(f"{at}: cell options {block!r} are no `key: value` lines"); return None
    return found


def check_figures(nb, name, problems):
    "The number of figures; each has label, caption and text for those who cannot see it, and is small."
    labels, n = [], 0
    for i, c in enumerate(nb["cells"]):
        if c["cell_type"] != "code": continue
        at, opts = where(name, i, c), options(c, where(name, i, c), problems)
        pictures = [found[1] for o in c["outputs"] if (found := picture_of(o))]
        if opts is not None and opts.get("label"): labels.append(opts["label"])
        if not pictures: continue
        n += 1
        if opts is not None:
            if not str(opts.get("label", "")).startswith("fig-"): problems.append(f"{at}: a figure without `#| label: fig-...`")
            for key in ("fig-cap", "fig-alt"):
                if not isinstance(opts.get(key), str) or not opts[key].strip(): problems.append(f"{at}: a figure without `#| {key}: ...`")
        problems += [f"{at}: the picture has {len(p):,} bytes, allowed are fewer than {max_picture:,}" for p in pictures if len(p) >= max_picture]
    problems += [f"{name}: label {l} is used {labels.count(l)} times" for l in sorted(set(labels)) if labels.count(l) > 1]
    return n


def check_saved_cells(nb, name, problems):
    "What must not be saved in a notebook, and imports where nbdev would run other code with them."
    for i, c in enumerate(nb["cells"]):
        at, source = where(name, i, c), text(c["source"])
        shown = [source] + [text(v) for o in c.get("outputs", []) for k, v in [("text", o.get("text", "")), *o.get("data", {}).items()]
                            if not k.startswith("image/") and isinstance(v, (str, list))]
        for s in shown:
            if m := machine_path.search(s): problems.append(f"{at}: a path of some machine: {s[m.start():m.start()+40].splitlines()[0]!r}")
        if "](attachment:" in source: problems.append(f"{at}: a picture attached to a cell; put it in nbs/images/")
        if c["cell_type"] != "code": continue
        for o in c["outputs"]:
            if o["output_type"] == "error": problems.append(f"{at}: an error is saved: {o.get('ename')}: {str(o.get('evalue'))[:80]}")
            if o.get("name") == "stderr": problems.append(f"{at}: output on the error stream is saved: {text(o['text']).strip()[:80]!r}")
        d = directives(source)
        if (exported | {"exec_doc"}) & d.keys() or d.get("eval") == "false" or "nbdev_export()" in source: continue
        try: nodes = list(ast.walk(ast.parse(re.sub(r"^\s*[%!].*", "", source, flags=re.M))))
        except SyntaxError: continue
        if any(isinstance(x, (ast.Import, ast.ImportFrom)) for x in nodes):
            if any(isinstance(x, (ast.Expr, ast.Assign)) for x in nodes): problems.append(f"{at}: imports beside other code; nbdev runs such a cell when it builds the site")
            flags = set(common.settings()["tst_flags"].split()) & d.keys()
            if flags: problems.append(f"{at}: an import in a cell marked {' '.join(sorted(flags))}; nbdev runs it when it builds the site")


def check_links(nb, page, staged, ends, proc, base_url, problems):
    "Links to other pages, anchors and files lead somewhere."
    outputs = {page_name(p).as_posix(): p for p in staged}
    for i, c, md in markdown_of(nb):
        for link in (a or b for a, b in link_in_markdown.findall(prose(md))):
            at = where(f"nbs/{page}", i, c)
            if link.startswith(base_url + "/"):   # made by nbdev from a name in backticks: the page must exist
                target = link[len(base_url)+1:].partition("#")[0]
                if target and target not in outputs: problems.append(f"{at}: link to {link}: no such page")
                continue
            if re.match(r"[a-z][a-z0-9+.-]*:|//", link): continue
            path, _, anchor = link.partition("#")
            target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
            if path.startswith("/"): target = path.lstrip("/")
            notebook = target if target in staged else outputs.get(target)
            if notebook is None and not (proc/target).exists() or target.startswith(".."): problems.append(f"{at}: link to {link}: no such page or file")
            elif notebook and anchor and anchor not in ends[notebook]: problems.append(f"{at}: link to {link}: no such heading on that page")


def check_references(nb, page, bibliography, problems):
    "Citations are in the bibliography; @fig-, @eq-, @tbl- and @sec- are on the page."
    ends = anchors(nb)
    for i, c in enumerate(nb["cells"]):
        if c["cell_type"] != "markdown": continue
        for key in re.findall(r"(?<![\w@./\\])-?@\{?([A-Za-z_][\w:.#$%&+?<>~/-]*\w)", prose(text(c["source"]))):
            at = where(f"nbs/{page}", i, c)
            if re.match(r"(fig|tbl|eq|sec|lst|thm|lem)-", key):
                if key not in ends: problems.append(f"{at}: @{key} is not on this page")
            elif key not in bibliography: problems.append(f"{at}: @{key} is not in nbs/references.bib")


def check_head(source, staged, name, problems):
    "Title and description; nothing beside them in their cell, for it would vanish."
    first = staged["cells"][0] if staged["cells"] else {}
    found = re.fullmatch(r"---\s*\n(.*?)\n---\s*", text(first.get("source", "")), flags=re.S) if first.get("cell_type") == "raw" else None
    front = (yaml.safe_load(found[1]) or {}) if found else {}
    if not front.get("title"): problems.append(f"{name}: no title; the first cell must be `# Title`")
    elif not front.get("description"): problems.append(f"{name}: no `> one line` under the title")
    top = next((c for c in source["cells"] if c["cell_type"] == "markdown"), None)
    extra = [l for l in text(top["source"]).splitlines() if l.strip() and not re.match(r"# |> |- \S.*:", l)] if top else []
    quotes = [l for l in text(top["source"]).splitlines() if l.startswith("> ")] if top else []
    if extra or len(quotes) > 1: problems.append(f"{name}: the title's cell holds more than `# Title` and one `>` line; nbdev drops {(extra or quotes[1:])[0][:50]!r}")


def check_text_files(problems):
    "No path of a machine in any other file of the project."
    for name in common.files():
        if name.suffix in {".ipynb", ".png"} or name.parts[0] == ".ci": continue
        try: lines = (common.root/name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError: continue
        problems += [f"{name}:{n}: a path of some machine: {m[0]!r}" for n, l in enumerate(lines, 1) if (m := machine_path.search(l))]


def main():
    problems, n_figures = [], 0
    names = [p.relative_to(common.nbs).as_posix() for p in notebooks()]
    for name in names:
        size = (common.nbs/name).stat().st_size
        if size > max_notebook: problems.append(f"nbs/{name}: {size:,} bytes, allowed are {max_notebook:,}")
        try:
            nb = load(common.nbs/name); nbformat.validate(nb)
            check_saved_cells(nb, f"nbs/{name}", problems)
        except (json.JSONDecodeError, nbformat.ValidationError, KeyError) as e:
            problems.append(f"nbs/{name}: not a valid notebook: {str(e).splitlines()[0]}")
            return report("site", problems, "not staged")
    htmls = [page_name(n).as_posix() for n in names]
    problems += [f"nbs: more than one notebook becomes {h}" for h in sorted(set(htmls)) if htmls.count(h) > 1]
    check_text_files(problems)
    have = (common.nbs/"sidebar.yml").read_text(encoding="utf-8") if (common.nbs/"sidebar.yml").exists() else ""
    if have != sidebar.sidebar(): problems.append("nbs/sidebar.yml: out of date; run python .ci/sidebar.py")
    with tempfile.TemporaryDirectory(prefix="dfml_nb_") as tmp:
        copy = Path(tmp)/"project"; copy.mkdir()
        failed = stage(copy)
        problems += failed
        proc = copy/"_proc"
        cfg = configuration(proc, problems)
        pages = list(pages_of(cfg.get("website", {}).get("sidebar", {}).get("contents")))
        problems += [f"nbs/{n}: not in the sidebar" for n in names if n not in pages]
        problems += [f"nbs/sidebar.yml: {p} is listed {pages.count(p)} times" for p in sorted(set(pages)) if pages.count(p) > 1]
        problems += [f"nbs/sidebar.yml: {p} does not exist" for p in pages if not ((common.nbs if failed else proc)/p).exists()]
        staged = {p: load(proc/p) for p in pages if (proc/p).exists() and p.endswith(".ipynb")}
        ends = {p: anchors(nb) for p, nb in staged.items()}
        ini = common.settings()
        bib = proc/str(cfg.get("bibliography", "references.bib"))
        keys = re.findall(r"^@\w+\{([^,\s]+),", bib.read_text(encoding="utf-8"), flags=re.M) if bib.exists() else []
        problems += [f"nbs/references.bib: {k} occurs twice" for k in sorted(set(keys)) if keys.count(k) > 1]
        for page, nb in staged.items():
            for c in nb["cells"]: c.pop("has_sd", None)   # nbdev's own mark; Quarto passes over it
            try: nbformat.validate(nb)
            except nbformat.ValidationError as e: problems.append(f"_proc/{page}: not a valid notebook: {str(e).splitlines()[0]}")
            source = load(common.nbs/page)
            check_head(source, nb, f"nbs/{page}", problems)
            n_figures += check_figures(nb, f"nbs/{page}", problems)
            for i, c in enumerate(nb["cells"]):
                if any(o["output_type"] == "error" for o in c.get("outputs", [])) and not any(c.get("id") == d.get("id") for d in source["cells"]):
                    problems.append(f"{where(f'_proc/{page}', i, c)}: an error while staging")
            if not failed: check_links(nb, page, staged, ends, proc, ini["doc_host"] + ini["doc_baseurl"], problems)
            check_references(nb, page, set(keys), problems)
    return report("site", problems, f"{len(staged)} pages, {n_figures} figures")


if __name__ == "__main__": sys.exit(main())
