"""The site can be built: all that can be known without Quarto.

A copy of the project is staged as nbdev_docs stages it (nbs/ → _proc/), then the configuration is put together
as Quarto does it, and each page of the sidebar is looked at. One line a problem.
"""
import ast, json, os, re, subprocess, sys, tempfile
from pathlib import Path

import nbformat, yaml

import common, sidebar
from common import directives, exported, load, notebooks, page_name, picture_of
from common import prose, report, text, where

max_picture = 100_000    # bytes
max_notebook = 1_500_000
machine_path = re.compile(r"(?<![\w.:/~$}-])/(?:work|tmp|root|home|Users|private|mnt|opt|srv|var/folders)"
                          r"/[\w.]|\b[A-Z]:\\\\?Users\b")
link_in_markdown = re.compile(r'\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)'
                              r'|<(?:a|img)\b[^>]*?(?:href|src)="([^"]+)"')
link_in_link = re.compile(r"\[[^\[\]!]*\[[^\[\]]*\]\([^()]*\)[^\[\]]*\]\([^()]*\)")
languages = "python", "sh", "bash", "yaml", "json", "default"   # default: plain text
max_columns = 80
max_value = 10   # lines of a value that is shown as Python writes it
vermilion = "#D55E00"   # on every page this project's own, and called OURS
stage_script = """
import nbdev.doclinks, nbdev.quarto as q, nbdev.serve as s
q.refresh_quarto_yml(); nbdev.doclinks._build_modidx(); q.nbdev_sidebar.__wrapped__()
if __name__ == "__main__": s.proc_nbs(n_workers=2)
"""


def cause_of(message):
    "The errors in what a failed process said, causes first, and the line of code after the last."
    lines = message.splitlines()
    error = re.compile(r'"?(\w+\.)*\w*(Error|Exception|Exit)\b')
    named = [i for i, l in enumerate(lines) if error.match(l)]
    source = [l.strip() for l in lines[named[-1]+1:] if l.strip()] if named else lines[-1:]
    errors = dict.fromkeys(lines[i].strip('"') for i in reversed(named))
    return f"{' <- '.join(errors)} {source[:1]}"


def stage(copy):
    "Stage the site in the folder `copy`; what went wrong if that fails."
    common.copy_to(copy)
    info = copy/"dfml_nb-0.dist-info"   # so that names become links where the library is not installed
    info.mkdir()
    (info/"METADATA").write_text("Metadata-Version: 2.1\nName: dfml_nb\nVersion: 0\n")
    (info/"entry_points.txt").write_text("[nbdev]\ndfml_nb = dfml_nb._modidx:d\n")
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {"PYTHONPATH": str(copy)}
    p = subprocess.run([sys.executable, "-c", stage_script], cwd=copy, env=env,
                       capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return [f"staging failed: {cause_of(p.stderr)}"] if p.returncode else []


def merged(a, b):
    "Two configurations as Quarto merges them: dictionaries by key, lists joined, else the later one."
    if isinstance(a, dict) and isinstance(b, dict):
        return {**a, **{k: merged(a[k], v) if k in a else v for k, v in b.items()}}
    return a + b if isinstance(a, list) and isinstance(b, list) else b


def read_configuration(proc, problems):
    "_quarto.yml with all that it includes, and the list of what it includes."
    base = yaml.safe_load((proc/"_quarto.yml").read_text())
    included = base.get("metadata-files", [])
    cfg = {}
    for name in included:
        path = proc/name
        if path.exists():
            cfg = merged(cfg, yaml.safe_load(path.read_text()) or {})
        else: problems.append(f"nbs/_quarto.yml: includes {name}, which does not exist")
    return merged(cfg, base), included


def configuration(proc, problems):
    "The configuration Quarto will see; says what is missing."
    try:
        cfg, included = read_configuration(proc, problems)
    except (OSError, yaml.YAMLError) as e:
        problems.append(f"configuration: {e}")
        return {}
    ini = common.settings()
    title = cfg.get("website", {}).get("title")
    html = cfg.get("format", {}).get("html", {})
    if "../_quarto.yml" not in included:
        problems.append("nbs/_quarto.yml: does not include ../_quarto.yml")
    if cfg.get("project", {}).get("output-dir") != ini["doc_path"]:
        problems.append("configuration: output-dir is not doc_path of settings.ini")
    if title != ini["title"]:
        problems.append(f"configuration: title is {title!r}, in settings.ini {ini['title']!r}")
    missing = [key for key in ("theme", "css") if key not in html]
    problems += [f"configuration: format.html.{key} is missing" for key in missing]
    for name in filter(None, (html.get("css"), cfg.get("bibliography"))):
        if not (proc/name).exists():
            problems.append(f"configuration: {name} does not exist in nbs/")
    return cfg


def pages_of(contents):
    "The pages of a sidebar, in order."
    for c in contents or []:
        if isinstance(c, str):
            yield c
            continue
        if "href" in c:
            yield c["href"]
        yield from pages_of(c.get("contents"))


def slug(heading):
    "The anchor Pandoc gives to a heading."
    explicit = re.search(r"\{[^}]*#([\w.:-]+)[^}]*\}\s*$", heading)
    if explicit: return explicit[1]
    s = re.sub(r"\{[^}]*\}\s*$", "", heading)
    s = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", s)
    s = re.sub(r"[`*$]", "", s)
    s = re.sub(r"[^\w\s.-]", "", s.lower())
    return re.sub(r"\s+", "-", re.sub(r"^[^a-z]+", "", s.strip()))


def markdown_of(nb):
    """All text of a staged page that can hold links, as (index, cell, text): its Markdown cells, and the
    outputs that are Markdown or HTML."""
    for i, c in enumerate(nb["cells"]):
        if c["cell_type"] == "markdown":
            yield i, c, text(c["source"])
        for o in c.get("outputs", []):
            for kind in ("text/markdown", "text/html"):
                if kind in o.get("data", {}):
                    yield i, c, text(o["data"][kind])


def headings(markdown):
    "The headings of a text, without what looks like one in a fenced block."
    outside = re.sub(r"^(`{3,}|~{3,}).*?^\1", "", markdown, flags=re.S | re.M)
    return re.findall(r"^#{1,6}\s+(.+?)\s*#*$", outside, flags=re.M)


def anchors(nb):
    "All anchors of a staged page."
    found = set()
    for _, _, md in markdown_of(nb):
        for heading in headings(md):
            s = slug(heading)
            n = 1
            while s in found:
                s = f"{slug(heading)}-{n}"
                n += 1
            found.add(s)
        found |= set(re.findall(r"\{[^}]*?#([\w.:-]+)", md))
        found |= set(re.findall(r'\bid="([^"]+)"', md))
    code = [text(c["source"]) for c in nb["cells"] if c["cell_type"] == "code"]
    return found | {directives(c).get("label", "") for c in code}


def options(cell, at, problems):
    "The cell options as Quarto reads them: YAML."
    lines = [re.match(r"#\s*\|\s?(.*)", l) for l in text(cell["source"]).splitlines()]
    top = next((i for i, m in enumerate(lines) if not m), len(lines))
    block = "\n".join(m[1] for m in lines[:top])
    try:
        found = yaml.safe_load(block) or {}
    except yaml.YAMLError as e:
        reason = str(e).splitlines()[0]
        problems.append(f"{at}: cell options are no valid YAML ({reason}); put the text in quotes")
        return None
    if isinstance(found, dict): return found
    problems.append(f"{at}: cell options {block!r} are no `key: value` lines")
    return None


def check_figure(at, opts, pictures, problems):
    "A figure has label, caption and text for those who cannot see it, and is small."
    if opts is not None:
        if not str(opts.get("label", "")).startswith("fig-"):
            problems.append(f"{at}: a figure without `#| label: fig-...`")
        for key in ("fig-cap", "fig-alt"):
            if not isinstance(opts.get(key), str) or not opts[key].strip():
                problems.append(f"{at}: a figure without `#| {key}: ...`")
    for p in pictures:
        if len(p) >= max_picture:
            size = f"{len(p):,} bytes, allowed are fewer than {max_picture:,}"
            problems.append(f"{at}: the picture has {size}")


def check_figures(nb, name, problems):
    "The number of figures."
    labels = []
    n = 0
    for i, c in enumerate(nb["cells"]):
        if c["cell_type"] != "code": continue
        at = where(name, i, c)
        opts = options(c, at, problems)
        if opts and opts.get("label"):
            labels.append(opts["label"])
        pictures = [found[1] for o in c["outputs"] if (found := picture_of(o))]
        if not pictures: continue
        n += 1
        check_figure(at, opts, pictures, problems)
    for label in sorted(set(labels)):
        if labels.count(label) > 1:
            problems.append(f"{name}: label {label} is used {labels.count(label)} times")
    return n


def shown_text(cell):
    "What a reader sees of a cell as text: its source and its outputs."
    yield text(cell["source"])
    for o in cell.get("outputs", []):
        yield text(o.get("text", ""))
        for kind, v in o.get("data", {}).items():
            if not kind.startswith("image/") and isinstance(v, (str, list)):
                yield text(v)


def check_imports(source, at, problems):
    "No imports where nbdev would run other code with them."
    d = directives(source)
    if (exported | {"exec_doc"}) & d.keys() or d.get("eval") == "false": return
    if "nbdev_export()" in source: return
    try:
        nodes = list(ast.walk(ast.parse(re.sub(r"^\s*[%!].*", "", source, flags=re.M))))
    except SyntaxError:
        return
    if not any(isinstance(x, (ast.Import, ast.ImportFrom)) for x in nodes): return
    if any(isinstance(x, (ast.Expr, ast.Assign)) for x in nodes):
        problems.append(f"{at}: imports beside other code; nbdev runs such a cell for the site")
    flags = set(common.settings()["tst_flags"].split()) & d.keys()
    if flags:
        marks = " ".join(sorted(flags))
        problems.append(f"{at}: an import in a cell marked {marks}; nbdev runs it for the site")


def wrong_with(data):
    "What is wrong with the ways in which a value is shown."
    if "text/html" in data:
        yield "an output in HTML, for which Quarto loads scripts from elsewhere; use Markdown"
    if "image/svg+xml" in data:
        yield "an SVG, which JupyterLab does not show until it trusts the notebook; draw a PNG, or a Drawing"
    lines = text(data.get("text/plain", "")).splitlines()
    if data.keys() == {"text/plain"} and len(lines) > max_value:
        yield f"a value of {len(lines)} lines, as Python writes it; print what a reader needs of it"


def check_saved_cells(nb, name, problems):
    "What must not be saved in a notebook."
    for i, c in enumerate(nb["cells"]):
        at = where(name, i, c)
        source = text(c["source"])
        for s in shown_text(c):
            if m := machine_path.search(s):
                path = s[m.start():m.start() + 40].splitlines()[0]
                problems.append(f"{at}: a path of some machine: {path!r}")
        if "](attachment:" in source:
            problems.append(f"{at}: a picture attached to a cell; put it in nbs/images/")
        if c["cell_type"] != "code": continue
        if vermilion in source and name != "nbs/drawing.ipynb":
            problems.append(f"{at}: vermilion is this project's own: OURS of drawing, or another colour")
        for o in c["outputs"]:
            if o["output_type"] == "error":
                said = f"{o.get('ename')}: {str(o.get('evalue'))[:80]}"
                problems.append(f"{at}: an error is saved: {said}")
            if o.get("name") == "stderr":
                said = text(o["text"]).strip()[:80]
                problems.append(f"{at}: output on the error stream is saved: {said!r}")
            problems += [f"{at}: {wrong}" for wrong in wrong_with(o.get("data", {}))]
        check_imports(source, at, problems)


def check_link(link, page, ends, outputs, proc, base_url):
    "What is wrong with a link, or None. `ends`: the anchors of each notebook; `outputs`: page → notebook."
    if link.startswith(base_url): return "an address of this site; write it relative to the page"
    if re.match(r"[a-z][a-z0-9+.-]*:|//", link): return None
    path, _, anchor = link.partition("#")
    target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
    if path.startswith("/"):
        target = path.lstrip("/")
    notebook = target if target in ends else outputs.get(target)
    known = notebook is not None or (proc/target).exists()
    if target.startswith("..") or not known: return "no such page or file"
    if notebook and anchor and anchor not in ends[notebook]: return "no such heading on that page"
    return None


def check_signatures(nb, page, problems):
    "What nbdev writes as code does not run off the page, and holds no links."
    for i, c, md in markdown_of(nb):
        if c["cell_type"] == "markdown": continue
        for line in "\n".join(re.findall(r"^```.*?^```", md, re.M | re.S)).splitlines():
            if len(line) > max_columns or "`](" in line:
                problems.append(f"{where(f'nbs/{page}', i, c)}: a signature shows {line.strip()!r}")


def check_fences(nb, page, problems):
    "Each block of code has a language: other blocks get no background and no button to copy them."
    for i, c, md in markdown_of(nb):
        for language in re.findall(r"^```(.*)\n(?:.*\n)*?```", md, re.M):
            if language.strip() not in languages:
                at = where(f"nbs/{page}", i, c)
                problems.append(f"{at}: a block of {language!r}; name one of {', '.join(languages)}")


def check_links(nb, page, ends, proc, base_url, problems):
    "Links to other pages, anchors and files lead somewhere."
    outputs = {page_name(p).as_posix(): p for p in ends}
    for i, c, md in markdown_of(nb):
        md = prose(md)
        for m in link_in_link.finditer(md):
            problems.append(f"{where(f'nbs/{page}', i, c)}: a link inside of a link: {m[0]!r}")
        for a, b in link_in_markdown.findall(md):
            wrong = check_link(a or b, page, ends, outputs, proc, base_url)
            if wrong:
                problems.append(f"{where(f'nbs/{page}', i, c)}: link to {a or b}: {wrong}")


def check_references(nb, page, bibliography, problems):
    "Citations are in the bibliography; @fig-, @eq-, @tbl- and @sec- are on the page."
    ends = anchors(nb)
    citation = re.compile(r"(?<![\w@./\\])-?@\{?([A-Za-z_][\w:.#$%&+?<>~/-]*\w)")
    for i, c in enumerate(nb["cells"]):
        if c["cell_type"] != "markdown": continue
        at = where(f"nbs/{page}", i, c)
        for key in citation.findall(prose(text(c["source"]))):
            if re.match(r"(fig|tbl|eq|sec|lst|thm|lem)-", key):
                if key not in ends:
                    problems.append(f"{at}: @{key} is not on this page")
            elif key not in bibliography:
                problems.append(f"{at}: @{key} is not in nbs/references.bib")


def front_matter(staged):
    "What nbdev made of a page's title cell."
    first = staged["cells"][0] if staged["cells"] else {}
    if first.get("cell_type") != "raw": return {}
    found = re.fullmatch(r"---\s*\n(.*?)\n---\s*", text(first.get("source", "")), flags=re.S)
    return (yaml.safe_load(found[1]) or {}) if found else {}


def check_head(source, staged, name, problems):
    "Title and description; nothing beside them in their cell, for it would vanish."
    front = front_matter(staged)
    if not front.get("title"):
        problems.append(f"{name}: no title; the first cell must be `# Title`")
    elif not front.get("description"):
        problems.append(f"{name}: no `> one line` under the title")
    top = next((c for c in source["cells"] if c["cell_type"] == "markdown"), None)
    lines = text(top["source"]).splitlines() if top else []
    extra = [l for l in lines if l.strip() and not re.match(r"# |> |- \S.*:", l)]
    quotes = [l for l in lines if l.startswith("> ")]
    if extra or len(quotes) > 1:
        dropped = (extra or quotes[1:])[0][:50]
        problems.append(f"{name}: the title's cell holds more than `# Title` and one `>` line; "
                        f"nbdev drops {dropped!r}")


def check_text_files(problems):
    "No path of a machine in any other file of the project."
    for name in common.files():
        if name.suffix in {".ipynb", ".png"} or name.parts[0] == ".ci": continue
        try:
            lines = (common.root/name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for n, line in enumerate(lines, 1):
            if m := machine_path.search(line):
                problems.append(f"{name}:{n}: a path of some machine: {m[0]!r}")


def check_sources(names, problems):
    "The notebooks as they are saved; False if one of them cannot be read."
    for name in names:
        size = (common.nbs/name).stat().st_size
        if size > max_notebook:
            problems.append(f"nbs/{name}: {size:,} bytes, allowed are {max_notebook:,}")
        try:
            nb = load(common.nbs/name)
            nbformat.validate(nb)
            check_saved_cells(nb, f"nbs/{name}", problems)
        except (json.JSONDecodeError, nbformat.ValidationError, KeyError) as e:
            problems.append(f"nbs/{name}: not a valid notebook: {str(e).splitlines()[0]}")
            return False
    return True


def check_sidebar(pages, names, folder, problems):
    "The sidebar is the one that would be written, and has every notebook once."
    path = common.nbs/"sidebar.yml"
    have = path.read_text(encoding="utf-8") if path.exists() else ""
    if have != sidebar.sidebar():
        problems.append("nbs/sidebar.yml: out of date; run python .ci/sidebar.py")
    problems += [f"nbs/{n}: not in the sidebar" for n in names if n not in pages]
    for p in sorted(set(pages)):
        if pages.count(p) > 1:
            problems.append(f"nbs/sidebar.yml: {p} is listed {pages.count(p)} times")
    problems += [f"nbs/sidebar.yml: {p} does not exist" for p in pages if not (folder/p).exists()]


def bibliography(proc, cfg, problems):
    "The keys of the bibliography."
    path = proc/str(cfg.get("bibliography", "references.bib"))
    if not path.exists(): return set()
    keys = re.findall(r"^@\w+\{([^,\s]+),", path.read_text(encoding="utf-8"), flags=re.M)
    twice = sorted(k for k in set(keys) if keys.count(k) > 1)
    problems += [f"nbs/references.bib: {k} occurs twice" for k in twice]
    return set(keys)


def check_page(page, nb, problems):
    "A staged page by itself; the number of its figures."
    for c in nb["cells"]:
        c.pop("has_sd", None)   # nbdev's own mark; Quarto passes over it
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as e:
        problems.append(f"_proc/{page}: not a valid notebook: {str(e).splitlines()[0]}")
    source = load(common.nbs/page)
    check_head(source, nb, f"nbs/{page}", problems)
    known = {c.get("id") for c in source["cells"]}
    for i, c in enumerate(nb["cells"]):
        failed = any(o["output_type"] == "error" for o in c.get("outputs", []))
        if failed and c.get("id") not in known:
            problems.append(f"{where(f'_proc/{page}', i, c)}: an error while staging")
    return check_figures(nb, f"nbs/{page}", problems)


def check_staged(copy, names, problems):
    "Stage the site in `copy` and look at it; the numbers of its pages and figures."
    failed = stage(copy)
    problems += failed
    proc = copy/"_proc"
    cfg = configuration(proc, problems)
    pages = list(pages_of(cfg.get("website", {}).get("sidebar", {}).get("contents")))
    check_sidebar(pages, names, common.nbs if failed else proc, problems)
    staged = {p: load(proc/p) for p in pages if (proc/p).exists() and p.endswith(".ipynb")}
    ends = {p: anchors(nb) for p, nb in staged.items()}
    ini = common.settings()
    base_url = ini["doc_host"] + ini["doc_baseurl"]
    keys = bibliography(proc, cfg, problems)
    n_figures = 0
    for page, nb in staged.items():
        n_figures += check_page(page, nb, problems)
        if not failed:
            check_links(nb, page, ends, proc, base_url, problems)
            check_signatures(nb, page, problems)
            check_fences(nb, page, problems)
        check_references(nb, page, keys, problems)
    return len(staged), n_figures


def main():
    problems = []
    names = [p.relative_to(common.nbs).as_posix() for p in notebooks()]
    if not check_sources(names, problems): return report("site", problems, "not staged")
    htmls = [page_name(n).as_posix() for n in names]
    for h in sorted(set(htmls)):
        if htmls.count(h) > 1:
            problems.append(f"nbs: more than one notebook becomes {h}")
    check_text_files(problems)
    with tempfile.TemporaryDirectory(prefix="dfml_nb_") as tmp:
        copy = Path(tmp)/"project"
        copy.mkdir()
        n_pages, n_figures = check_staged(copy, names, problems)
    return report("site", problems, f"{n_pages} pages, {n_figures} figures")


if __name__ == "__main__": sys.exit(main())
