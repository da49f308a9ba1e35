"""Run the notebooks as tests, each in a process of its own, and count those that really ran.

    python .ci/test_notebooks.py [--jobs 2] [--timeout 600] [--flags "slow cuda"] [--fresh] [NOTEBOOK or FOLDER ...]

The processes are forks of this one, which has imported the large packages, but nothing of the project: to import
them for each of some 230 notebooks would take a quarter of all the work.

Cells are chosen as nbdev_test chooses them: not those with `#| eval: false`, nor those with a flag of `tst_flags`
that is not named by --flags. A notebook fails if a cell raises, if it takes too long, or if a cell shows something
now but has nothing saved; with --fresh, also if it says something else than what is saved, numbers aside (for the
versions and the data that a notebook was saved with). The last line is `N passed, N failed`.
"""
import argparse, difflib, json, os, re, signal, sys, tempfile, textwrap, time, traceback
from pathlib import Path

import common
from common import root


def shown(outputs):
    "Do these outputs of a cell show a reader something?"
    kinds = "display_data", "execute_result"
    return any(o["output_type"] in kinds or o.get("name") == "stdout" for o in outputs or [])


def words(outputs):
    "The lines that these outputs of a cell show, without numbers, which another machine may print otherwise."
    said = []
    for o in outputs or []:
        data = o.get("data", {})
        if o.get("name") == "stdout": said.append(common.text(o["text"]))
        elif "text/markdown" in data: said.append(common.text(data["text/markdown"]))
        elif o["output_type"] == "execute_result": said.append(common.text(data.get("text/plain", "")))
    plain = re.sub(r"data:image/\S+|0x[0-9a-f]+|[-+]?\d[\d.,:e+-]*|█+", "#", "".join(said))
    return [" ".join(line.split()) for line in plain.splitlines() if line.strip()]


def otherwise(saved, now):
    "The lines that a cell says only now, or only in what is saved."
    lines = difflib.unified_diff(words(saved), words(now), n=0, lineterm="")
    return [line for line in lines if line[:2] not in ("--", "++", "@@")]


def one(path, flags, fresh, out):
    """Run one notebook in this process; write to `out` if it passed, how many cells ran, which lack output, and, if it
    must be fresh, which say something else than what is saved."""
    import nbdev.test
    from nbdev.config import get_config

    ran = []
    unsaved = []
    stale = []

    class Shell(nbdev.test.CaptureShell):
        def cell(self, cell, *args, **kw):
            if cell.cell_type != "code" or not cell.source.strip(): return
            saved = cell.get("outputs")
            cell.outputs = []
            super().cell(cell, *args, **kw)
            ran.append(cell.idx_)
            told = {k.rstrip(":"): " ".join(v) for k, v in cell.directives_.items()}
            seen = common.is_shown(told, "output")
            place = f"cell {cell.idx_} ({cell.get('id')})"
            if seen and shown(cell.outputs) and not shown(saved):
                unsaved.append(place)
            elif seen and fresh and (lines := otherwise(saved, cell.outputs)):
                stale.append("\n".join([place, *lines]))

    nbdev.test.CaptureShell = Shell
    skip = get_config().tst_flags.split()
    passed, _ = nbdev.test.test_nb(path, skip_flags=skip, force_flags=flags.split(), basepath=root)
    Path(out).write_text(json.dumps(dict(passed=bool(passed), cells=len(ran), unsaved=unsaved, stale=stale)))


def start(path, flags, fresh, tmp):
    """Run one notebook in a fork of this process; the number of the new one, which leads a group of its own, and
    writes what it says, and what came of it, into the folder `tmp`."""
    sys.stdout.flush()
    if pid := os.fork(): return pid
    status = 1
    try:
        os.setsid()
        os.chdir(common.nbs)
        nothing, said = os.open(os.devnull, os.O_RDONLY), os.open(tmp/"said.txt", os.O_WRONLY | os.O_CREAT)
        for old, new in (nothing, 0), (said, 1), (said, 2): os.dup2(old, new)
        one(path, flags, fresh, tmp/"out.json")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def exit_code(pid, late):
    "The exit code of a process that has ended, None if it still runs; one that is late is killed, with its group."
    done, status = os.waitpid(pid, os.WNOHANG)
    if done: return os.waitstatus_to_exitcode(status)
    if not late: return None
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "none: it took too long"


def judged(tmp, code):
    "What came of a notebook: passed, failed or skipped; a message; and how many cells ran."
    out = tmp/"out.json"
    res = json.loads(out.read_text()) if out.exists() else dict(passed=False, cells=0, unsaved=[], stale=[])
    if code or not res["passed"]:
        said = (tmp/"said.txt").read_text(errors="replace")
        return "failed", f"{said[-8000:]}\nexit code {code}", res["cells"]
    if res["unsaved"]:
        return "failed", "shows something, but nothing is saved: " + ", ".join(res["unsaved"]), res["cells"]
    if res["stale"]:
        return "failed", "says something else than what is saved:\n" + "\n".join(res["stale"]), res["cells"]
    if not res["cells"]: return "skipped", "no cell to run", 0
    return "passed", "", res["cells"]


def chosen(paths):
    "The notebooks to run; a folder that holds a file `.notest` is left out, as by nbdev_test."
    found = [] if paths else common.notebooks()
    for p in map(Path, paths):
        found += common.notebooks(p.resolve()) if p.is_dir() else [p.resolve()]
    return [p for p in found if not (p.parent/".notest").exists()]


def run_all(paths, a, count):
    "Run notebooks, several at a time; say of each how it went."
    import matplotlib.pyplot, nbdev.test, torch, torchvision   # once, for all forks
    waiting, running = list(paths), {}
    while waiting or running:
        while waiting and len(running) < a.jobs:
            tmp = tempfile.TemporaryDirectory(prefix="dfml_nb_")
            path = waiting.pop(0)
            running[start(path, a.flags, a.fresh, Path(tmp.name))] = path, tmp, time.monotonic()
        time.sleep(.02)
        for pid, (path, tmp, since) in list(running.items()):
            seconds = time.monotonic() - since
            code = exit_code(pid, late=seconds > a.timeout)
            if code is None: continue
            status, message, cells = judged(Path(tmp.name), code)
            tmp.cleanup()
            del running[pid]
            count[status] += 1
            print(f"{status} {os.path.relpath(path, root)}: {cells} cells, {seconds:.1f} s", flush=True)
            if message: print(textwrap.indent(message.strip(), "    "), flush=True)


def beside(file, count):
    "Wait for work that runs beside the notebooks, and show the file that it writes; the last line is its exit status."
    while not file.exists(): time.sleep(1)
    *said, status = file.read_text(errors="replace").splitlines()
    print("\n".join(said))
    if status != "0":
        print(f"failed: {file.stem}, exit status {status}")
        count["failed"] += 1


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("paths", nargs="*")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--timeout", type=float, default=600)
    p.add_argument("--flags", default="")
    p.add_argument("--fresh", action="store_true")
    p.add_argument("--beside", type=Path)   # a file that other work writes when it is done
    p.add_argument("--checks-failed", type=int, default=0)   # other checks that failed; they count
    return p.parse_args()


def main():
    a = arguments()
    before = common.digests()
    count = dict(passed=0, failed=0, skipped=0)
    run_all(chosen(a.paths), a, count)
    after = common.digests()
    touched = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    if touched:
        print("failed: the notebooks wrote into the project: " + ", ".join(touched))
        count["failed"] += 1
    if a.beside: beside(a.beside, count)
    if a.checks_failed:
        print(f"failed: {a.checks_failed} of the checks before the notebooks")
        count["failed"] += a.checks_failed
    if not count["passed"]:
        print("failed: no notebook ran")
        count["failed"] += 1
    print(f"{count['skipped']} skipped")
    print(f"{count['passed']} passed, {count['failed']} failed", flush=True)
    return 1 if count["failed"] else 0


if __name__ == "__main__": sys.exit(main())
