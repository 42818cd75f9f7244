#!/usr/bin/env python3
"""Do all jobs of a folder of cases on this machine's GPU, several at once, within a time; called by run_validation.sh.

    orchestrate.py CASES OUT        with BUDGET (seconds, default 280), JOBS (engines built at once, default 15)

Writes OUT/results.jsonl as it goes, OUT/details.tar.gz (the inspector's layers of every engine) and OUT/summary.txt.
CASES/done.jsonl, the results.jsonl of an earlier run, names jobs that need not be done again.
"""

import json
import os
import subprocess
import sys
import tarfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
JOB = os.path.join(HERE, "job.py")
LARGE = 0.01
"""Relative error from which a diagnosis is worth its engines."""
PREPARERS = 8
"""Cases prepared at once: the others build what is ready."""
DIAGNOSED = 2
"""Models diagnosed in full; each costs some thirty engines."""


class Work:
    """The queue, and what came out; all methods but `worker` are called with the lock held or before the threads."""

    def __init__(self, cases, out, work, budget):
        self.cases, self.out, self.work = cases, out, work
        self.start = time.monotonic()
        self.deadline = self.start + budget
        self.reserve = min(45, budget / 6)
        self.lock = threading.Condition()
        self.results, self.prepared, self.failed, self.running = {}, set(), {}, set()
        self.diagnosed, self.done_before = [], set()
        self.pending, self.preparing = [], 0
        earlier = os.path.join(cases, "done.jsonl")
        if os.path.exists(earlier):
            with open(earlier, encoding="utf-8") as file:
                for line in file:
                    result = json.loads(line)
                    if "outputs" in result:
                        self.results[result["id"]] = result
                        self.done_before.add(result["id"])
        with open(os.path.join(cases, "jobs.jsonl"), encoding="utf-8") as file:
            for number, line in enumerate(file):
                job = json.loads(line)
                only = os.environ.get("ONLY")
                if job["id"] not in self.done_before and (not only or job["case"] in only.split(",")):
                    self.pending.append((job["priority"], number, job))
        self.pending.sort(key=lambda item: item[:2])
        wanted = {job["case"] for _, _, job in self.pending}
        self.to_prepare = sorted(wanted, key=lambda c: (c not in ("massive", "ffn"), not c.startswith("segformer"), c))

    def error_of(self, name):
        """Largest relative error of a finished job's outputs; None while it is not there; NaN counts as large."""
        result = self.results.get(name)
        if result is None or "outputs" not in result:
            return None
        errors = [o["rel_l2"] for o in result["outputs"].values()]
        return max((float("inf") if e is None or e != e else e) for e in errors)

    def is_ready(self, job):
        if job["case"] not in self.prepared:
            return False
        if "first_bad" in job and job["first_bad"] not in self.results:
            return False
        if "when" not in job:
            return True
        error = self.error_of(job["when"])
        if error is None or error <= LARGE:
            return False
        if job["case"] not in self.diagnosed:
            if len(self.diagnosed) >= DIAGNOSED:
                return False
            self.diagnosed.append(job["case"])
        return True

    def is_dead(self, job):
        """Whether a job can never become ready."""
        if job["case"] in self.failed:
            return True
        for key in ("when", "first_bad"):
            if key in job and job[key] in self.results:
                error = self.error_of(job[key])
                if error is None or (key == "when" and error <= LARGE):
                    return True
        full = len(self.diagnosed) >= DIAGNOSED and job["case"] not in self.diagnosed
        return "when" in job and full

    def take(self):
        """("prepare", case), ("build", job), or None when nothing is ready now."""
        if self.to_prepare and self.preparing < PREPARERS:
            self.preparing += 1
            return "prepare", self.to_prepare.pop(0)
        for place, (_, _, job) in enumerate(self.pending):
            if self.is_ready(job):
                del self.pending[place]
                return "build", self.filled(job)
        self.pending = [item for item in self.pending if not self.is_dead(item[2])]
        return None

    def filled(self, job):
        """A job that marks the steps of the first bad norm, with those values."""
        if "first_bad" not in job:
            return job
        with open(os.path.join(self.cases, job["case"], "case.json"), encoding="utf-8") as file:
            norms = json.load(file)["norms"]
        found = dict(self.results[job["first_bad"]].get("marked", []))
        for steps in norms:
            error = found.get(steps["Add_1"], {}).get("rel_l2", 0)
            if error is None or error != error or error > 5e-3:
                return dict(job, mark=list(steps.values()))
        return dict(job, mark=list(norms[-1].values()))

    def left(self):
        return self.deadline - self.reserve - time.monotonic()

    def call(self, arguments, limit):
        """Exit status and the end of what a process said; killed at its limit."""
        try:
            done = subprocess.run(
                [sys.executable, JOB, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit
            )
            return done.returncode, done.stdout.decode(errors="replace")[-600:]
        except subprocess.TimeoutExpired:
            return -1, "over its limit of %.0f s" % limit

    def record(self, result):
        self.results[result["id"]] = result
        with open(os.path.join(self.out, "results.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        outputs = result.get("outputs", {})
        worst = ["%.2g" % o["rel_l2"] for o in list(outputs.values())[:3]]
        print(
            "%5.0f s  %-34s %s %s %s" % (
                time.monotonic() - self.start, result["id"], result.get("verdict", ""), " ".join(worst),
                result.get("error", "")[:160],
            ),
            flush=True,
        )  # fmt: skip

    def worker(self):
        while True:
            with self.lock:
                taken = self.take()
                while taken is None:
                    if self.left() < 5 or (not self.pending and not self.running) or not self.running:
                        self.lock.notify_all()
                        return
                    self.lock.wait(1.0)
                    taken = self.take()
                if self.left() < 5:
                    self.lock.notify_all()
                    return
                what, subject = taken
                name = subject if what == "prepare" else subject["id"]
                self.running.add(name)
            if what == "prepare":
                limit = min(120, self.left())
                code, said = self.call(["prepare", os.path.join(self.cases, subject), self.work], limit)
                with self.lock:
                    self.preparing -= 1
                    if code == 0:
                        self.prepared.add(subject)
                    else:
                        self.failed[subject] = said
                        print("not prepared: %s: %s" % (subject, said), flush=True)
            else:
                path = os.path.join(self.out, "jobs", name + ".json")
                limit = min(float(os.environ.get("LIMIT", 200)), self.left())
                code, said = self.call(["build", json.dumps(subject), self.work, os.path.join(self.out, "jobs")], limit)
                result = {
                    "id": name,
                    "case": subject["case"],
                    "kind": subject["kind"],
                    "error": "%s: %s" % (code, said),
                }
                if os.path.exists(path):
                    with open(path, encoding="utf-8") as file:
                        result = json.load(file)
                with self.lock:
                    self.record(result)
            with self.lock:
                self.running.discard(name)
                self.lock.notify_all()

    def time_all(self):
        """Time the plain engines, alone; a crash costs the engine that crashed."""
        todo = [
            name for name, result in self.results.items()
            if name not in self.done_before and "outputs" in result and name.split(".")[-1] in ("fp32", "fp16", "half")
        ]  # fmt: skip
        jobs = os.path.join(self.out, "jobs")
        while todo and self.deadline - time.monotonic() > 8:
            code, said = self.call(["time", self.work, jobs, *todo], self.deadline - time.monotonic() - 5)
            timed = []
            for name in todo:
                with open(os.path.join(jobs, name + ".json"), encoding="utf-8") as file:
                    result = json.load(file)
                if "ms" in result:
                    self.results[name] = result
                    timed.append(name)
            if code != 0:
                print("timing: %s %s" % (code, said), flush=True)
            todo = [name for name in todo if name not in timed][1 if code else 0 :]
            if not code:
                break

    def finish(self):
        with open(os.path.join(self.out, "results.jsonl"), "w", encoding="utf-8") as file:
            for name, result in self.results.items():
                if name not in self.done_before:
                    file.write(json.dumps(result) + "\n")
        with tarfile.open(os.path.join(self.out, "details.tar.gz"), "w:gz") as archive:
            for name in sorted(os.listdir(self.work)):
                if name.endswith(".layers"):
                    archive.add(os.path.join(self.work, name), name)
        with open(os.path.join(self.out, "summary.txt"), "w", encoding="utf-8") as file:
            for name, result in self.results.items():
                worst = ["%.2g" % o["rel_l2"] for o in list(result.get("outputs", {}).values())[:3]]
                line = [name, result.get("verdict"), worst, result.get("counts"), result.get("ms"), result.get("error")]
                file.write(" | ".join(map(str, line)) + "\n")
            for case, said in self.failed.items():
                file.write("not prepared | %s | %s\n" % (case, said))
            for _, _, job in self.pending:
                file.write("not done | %s\n" % job["id"])


def main():
    cases, out = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    work = os.environ.get("WORK", "/tmp/validation-work")
    os.makedirs(os.path.join(out, "jobs"), exist_ok=True)
    os.makedirs(work, exist_ok=True)
    todo = Work(cases, out, work, float(os.environ.get("BUDGET", 280)))
    threads = [threading.Thread(target=todo.worker) for _ in range(int(os.environ.get("JOBS", 15)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("%.0f s: built; timing" % (time.monotonic() - todo.start), flush=True)
    todo.finish()
    todo.time_all()
    todo.finish()
    print("%.0f s: done" % (time.monotonic() - todo.start), flush=True)


if __name__ == "__main__":
    main()
