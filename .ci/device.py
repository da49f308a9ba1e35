"""Proves and times what an accelerator does, in a few minutes; prints a table and writes one JSON.

    bash .ci/device.sh [--minutes 8] [--out FILE]

First every recipe at the smallest budget, on the device and on the processor: both must end, with finite weights and with
accuracies that are figures. Then the parts of training at the papers' sizes, one after another and all at once where the
library does that on devices. What does not fit into the minutes is named as not run.
"""
import argparse, json, statistics, sys, tempfile, time, traceback
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import torch

from dfml_nb.adapt.testing import test_learner
from dfml_nb.core import device_name, rng, versions
from dfml_nb.data import load_data
from dfml_nb.learn.maml import ReplaySettings, maml_step
from dfml_nb.nets import batch_mode, build_classifier
from dfml_nb.parts import Given
from dfml_nb.pool.add import add_models
from dfml_nb.pool.pool import Pool
from dfml_nb.pool.pretrain import pretrain_pool
from dfml_nb.recipes import DataFreeMetaLearner
from dfml_nb.table import POOL_BUDGETS, RECIPES
from dfml_nb.recover.five import FIve, FIveSettings
from dfml_nb.recover.inversion import balanced_labels


def prove(recipe, pool, data, device):
    "One recipe from its first step to its test, there and here: seconds and accuracies of both."
    found = {}
    for where in (device, "cpu"):
        start = time.perf_counter()
        learner = DataFreeMetaLearner(recipe, "smoke", 1, 0, where).fit(pool)
        rows = test_learner(learner, data, (1,), n=20)
        finite = all(v.isfinite().all().item() for v in learner.model.state_dict().values())
        found[str(where)] = dict(seconds=time.perf_counter() - start, finite=finite, acc=[r["acc"] for r in rows])
    found["ok"] = all(f["finite"] and all(a == a for a in f["acc"]) for f in list(found.values()))
    return found


def timed(f, device, repeats=3):
    "Median seconds of a call, the device's work included."
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        f()
        if torch.device(device).type == "cuda": torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def conv4(*key): return build_classifier("conv4", 5, 3, 32, seed=("device", *key))


def episode(i, device, shot=1, query=15):
    "An episode of random images."
    y, n = balanced_labels(5, shot + query, device), 5 * shot
    x = torch.rand(len(y), 3, 32, 32, generator=rng("device", i)).to(device)
    return SimpleNamespace(support_x=x[:n], support_y=y[:n], query_x=x[n:], query_y=y[n:])


def parts(folder, device):
    "name → function without arguments: the parts of a training step at the paper's sizes."
    add_models(folder, (dict(arch="conv4", model=conv4(i), name=f"t{i}", domain="device") for i in range(4)))
    pool, model = Pool(folder), batch_mode(conv4("meta").to(device))
    opt = torch.optim.Adam(model.parameters())
    found = {}
    for precision in ("float32", "bfloat16"):
        five = FIve(FIveSettings(precision=precision), Given(pool=pool, size=32, way=5, device=torch.device(device)))
        found[f"recovery of 4 teachers, {precision}"] = lambda five=five: five.tasks([0, 1, 2, 3], (0, "device", 0), model)
    for shot in (1, 5):
        some = [episode(i, device, shot) for i in range(10)]
        for together in (False, True):
            name = f"replay, {shot}-shot, {'at once' if together else 'one after another'}"
            found[name] = lambda some=some, shot=shot, together=together: maml_step(
                model, opt, some, ReplaySettings(shot=shot), together)
    return found


def same_gradient(device):
    "The largest relative difference between episodes at once and one after another."
    some, w = [episode(i, device) for i in range(4)], []
    for together in (False, True):
        model = batch_mode(conv4("meta").to(device))
        maml_step(model, torch.optim.SGD(model.parameters(), 1.), some, ReplaySettings(), together)
        w.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    start = torch.cat([p.detach().flatten().to(device) for p in conv4("meta").parameters()])
    return ((w[0] - w[1]).norm() / (w[0] - start).norm()).item()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--minutes", type=float, default=8); p.add_argument("--out", default="device.json")
    p.add_argument("--device", default="cuda")
    a = p.parse_args()
    if a.device == "cuda" and not torch.cuda.is_available(): sys.exit("there is no NVIDIA GPU here: nothing was run")
    stop, data = time.perf_counter() + 60 * a.minutes, load_data("glyphs")
    record = dict(device=device_name(torch.device(a.device)), versions=versions(), recipes={}, parts={}, not_run=[])
    wrong = []

    def attempt(kind, name, f):
        if time.perf_counter() > stop: return record["not_run"].append(name)
        try: record[kind][name] = f()
        except Exception:
            record[kind][name] = traceback.format_exc()[-2000:]
            wrong.append(name)
        print(f"{kind:8} {name:44} {str(record[kind][name])[:160]}", flush=True)
        Path(a.out).write_text(json.dumps(record, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        attempt("parts", "at once against one by one, relative", lambda: same_gradient(a.device))
        for name, f in parts(Path(folder)/"four", a.device).items(): attempt("parts", name, lambda: timed(f, a.device))
        pool = pretrain_pool(data, Path(folder)/"pool", way=5, seed=0, device=a.device, quiet=True, **POOL_BUDGETS["smoke"])
        for recipe in RECIPES: attempt("recipes", recipe, lambda: prove(recipe, pool, data, a.device))
    wrong += [r for r, v in record["recipes"].items() if isinstance(v, dict) and not v["ok"]]
    print(f"{len(record['recipes'])} recipes, {len(record['parts'])} parts, {len(wrong)} wrong: {', '.join(wrong)}; "
          f"{len(record['not_run'])} not run")
    return 1 if wrong else 0


if __name__ == "__main__": sys.exit(main())
