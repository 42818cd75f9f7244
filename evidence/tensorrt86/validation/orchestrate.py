#!/usr/bin/env python3
"""Do all jobs of a folder of cases on this machine's GPU, several at once, within a time; called by run_validation.sh.

    orchestrate.py CASES OUT        with BUDGET (seconds, default 280), JOBS (engines built at once, default 6),
                                    LIMIT (seconds an engine, default 90), RESERVE (seconds kept for timing, by
                                    default a sixth of the budget, 20 at most)

Writes OUT/results.jsonl as it goes, OUT/searches.json, OUT/details.tar.gz (the inspector's layers of every engine),
OUT/wrong.tar.gz (the first row that an engine gave, where that was wrong) and OUT/summary.txt. A job may have a `limit`
of its own; then it is not tried again at level 1.
CASES/done.jsonl, the results.jsonl of an earlier run, names jobs that need not be done again.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from search import Search  # noqa: E402

JOB = os.path.join(HERE, "job.py")
PREPARERS = 4
"""Cases prepared at once, on the CPU, beside the builds."""
SEARCHERS = 3
"""Engines built at once for the searches, at most."""
ARCHIVE = 12e6
"""Bytes that go into one archive, at most: the first results have precedence."""
STARTING = 45
"""Seconds more that the first engine of a process may take."""
PATIENCE = 20
"""Seconds at the start in which no job overtakes one whose case is still being prepared."""


class Builder:
    """A process that builds engines, and another when it is gone."""

    def __init__(self, work, out):
        self.command = [sys.executable, JOB, "serve", work, out]
        self.start()

    def start(self):
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True
        )
        self.is_fresh = True

    def ask(self, job, limit, left):
        """None when the job is done, with whatever result; else why it was not. Both times are seconds."""
        if self.process.poll() is not None:
            self.start()
        if self.is_fresh:
            limit += STARTING
        self.is_fresh = False
        limit = min(limit, left)
        watchdog = threading.Timer(limit, self.process.kill)
        start = time.monotonic()
        watchdog.start()
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has just ended: reading says so
        for line in self.process.stdout:
            if line.startswith("DONE"):
                watchdog.cancel()
                return None
        watchdog.cancel()
        code = self.process.wait()
        if time.monotonic() - start >= limit:
            return "over its limit of %.0f s" % limit
        self.said.seek(0)
        return "the process ended with %s: %s" % (code, self.said.read()[-500:])

    def stop(self):
        self.process.kill()
        self.process.wait()


class Work:
    """The queue, and what came out; methods are called with the lock held, `build_all` and `prepare_all` without."""

    def __init__(self, cases, out, work, budget):
        self.cases, self.out, self.work = cases, out, work
        self.jobs = os.path.join(work, "jobs")
        self.start = time.monotonic()
        self.deadline = self.start + budget
        self.reserve = float(os.environ.get("RESERVE", min(20, budget / 6)))
        self.lock = threading.Condition()
        self.results, self.prepared, self.failed = {}, set(), {}
        self.running = []
        self.pending, self.done_before = [], set()
        only = os.environ.get("ONLY", "").split(",") if os.environ.get("ONLY") else None
        for result in self.lines("done.jsonl"):
            if "outputs" in result:
                self.results[result["id"]] = result
                self.done_before.add(result["id"])
        for job in self.lines("jobs.jsonl"):
            if job["id"] not in self.done_before and (only is None or job["case"] in only):
                self.pending.append(job)
        self.searches = [
            Search(s["case"], s["level"], s["full"])
            for s in self.lines("searches.jsonl")
            if only is None or s["case"] in only
        ]
        self.whole = {search.case for search in self.searches} | {job["case"] for job in self.pending if "cut" in job}
        first = [search.case for search in self.searches[:1]]
        ordered = sorted(self.pending, key=lambda job: job["priority"])
        self.to_prepare = list(dict.fromkeys([*first, *(job["case"] for job in ordered)]))

    def lines(self, name):
        path = os.path.join(self.cases, name)
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def error_of(self, name):
        """Largest relative error of a finished job's outputs; None while there is none; NaN counts as infinite."""
        result = self.results.get(name)
        if result is None or "outputs" not in result:
            return None
        errors = [o["rel_l2"] for o in result["outputs"].values()]
        return max((float("inf") if e is None or e != e else e) for e in errors)

    def left(self):
        return self.deadline - self.reserve - time.monotonic()

    def search_on(self):
        """Begin the searches whose whole engine is there, and queue what the others want."""
        for search in self.searches:
            error = self.error_of(search.full)
            if search.state == "waiting" and error is not None and search.case in self.prepared:
                with open(os.path.join(self.work, search.case, "values.json"), encoding="utf-8") as file:
                    search.begin(json.load(file)["cuts"], error)
            self.pending = [
                job for job in self.pending if job.get("search") != search.prefix or not search.gives_up(job)
            ]
            self.pending += search.wanted()
        self.pending.sort(key=lambda job: job["priority"])

    def take(self):
        """The next job, or None when nothing is ready now."""
        self.search_on()
        searching = sum("search" in job for job in self.running)
        is_early = time.monotonic() - self.start < PATIENCE
        for place, job in enumerate(self.pending):
            if is_early and job["case"] not in self.prepared:
                return None
            if job["case"] in self.prepared and ("search" not in job or searching < SEARCHERS):
                self.running.append(job)
                return self.pending.pop(place)
        return None

    def record(self, job, result):
        self.results[result["id"]] = result
        for search in self.searches:
            if job.get("search") == search.prefix and "plain" in job:
                search.learn(job["index"], self.error_of(result["id"]))
        slow = "over its limit" in result.get("error", "")
        if slow and job.get("level", 3) > 1 and "cut" not in job and "limit" not in job:
            self.pending.append(dict(job, level=1, priority=90))  # a faster build, if there is time at the end
        with open(os.path.join(self.out, "results.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        with open(os.path.join(self.out, "searches.json"), "w", encoding="utf-8") as file:
            json.dump([search.line() for search in self.searches], file, indent=1)
        worst = ["%.2g" % o["rel_l2"] for o in list(result.get("outputs", {}).values())[:3]]
        said = result.get("verdict", ""), " ".join(worst), job.get("cut", ""), result.get("error", "")[:160]
        spent = result.get("build_s", 0)
        print(
            "%5.0f s %5.1f s %-34s %s %s %s %s" % (time.monotonic() - self.start, spent, result["id"], *said),
            flush=True,
        )

    def build_all(self):
        """A thread's work: build what is ready, until there is nothing or no time left."""
        builder = Builder(self.work, self.jobs)
        while True:
            with self.lock:
                job = self.take()
                while job is None and self.left() >= 5 and (self.to_prepare or self.running or self.pending):
                    self.lock.wait(1.0)
                    job = self.take()
                if job is None or self.left() < 5:
                    break
            path = os.path.join(self.jobs, job["id"] + ".json")
            said = builder.ask(job, float(job.get("limit", os.environ.get("LIMIT", "90"))), self.left())
            result = {"id": job["id"], "case": job["case"], "kind": job["kind"], "job": job, "error": str(said)}
            if os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    result = json.load(file)
            with self.lock:
                self.running.remove(job)
                self.record(job, result)
                self.lock.notify_all()
        builder.stop()

    def prepare_all(self):
        """A thread's work: prepare cases, in the order of their jobs."""
        while True:
            with self.lock:
                if not self.to_prepare or self.left() < 5:
                    return
                case = self.to_prepare.pop(0)
            command = [sys.executable, JOB, "prepare", os.path.join(self.cases, case), self.work]
            if case in self.whole:
                command.append("searched")
            try:
                limit = max(5, min(100, self.left()))
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit)
                said = done.stdout.decode(errors="replace")[-600:] if done.returncode else None
            except subprocess.TimeoutExpired:
                said = "over its limit"
            with self.lock:
                if said is None:
                    self.prepared.add(case)
                else:
                    self.failed[case] = said
                    self.pending = [job for job in self.pending if job["case"] != case]
                    print("not prepared: %s: %s" % (case, said), flush=True)
                self.lock.notify_all()

    def time_all(self):
        """Time the plain engines, alone; a crash costs the engine that crashed."""
        todo = [
            name for name, result in self.results.items()
            if name not in self.done_before and "outputs" in result and name.split(".")[-1] in ("fp32", "fp16", "half")
            and "search" not in result["job"]
        ]  # fmt: skip
        while todo and self.deadline - time.monotonic() > 8:
            command = [sys.executable, JOB, "time", self.work, self.jobs, *todo]
            code = -1
            try:
                code = subprocess.run(command, timeout=self.deadline - time.monotonic() - 4).returncode
            except subprocess.TimeoutExpired:
                print("timing: no time left", flush=True)
            timed = []
            for name in todo:
                with open(os.path.join(self.jobs, name + ".json"), encoding="utf-8") as file:
                    result = json.load(file)
                if "ms" in result:
                    self.results[name] = result
                    timed.append(name)
            todo = [name for name in todo if name not in timed][1 if code else 0 :]
            if not code:
                break

    def finish(self):
        with open(os.path.join(self.out, "results.jsonl"), "w", encoding="utf-8") as file:
            for name, result in self.results.items():
                if name not in self.done_before:
                    file.write(json.dumps(result) + "\n")
        for archived, ending in (("details", ".layers"), ("wrong", ".wrong.npz")):
            room = ARCHIVE
            with tarfile.open(os.path.join(self.out, archived + ".tar.gz"), "w:gz") as archive:
                for name in self.results:
                    path = os.path.join(self.work, name + ending)
                    if os.path.exists(path) and os.path.getsize(path) <= room:
                        archive.add(path, name + ending)
                        room -= os.path.getsize(path)
        with open(os.path.join(self.out, "summary.txt"), "w", encoding="utf-8") as file:
            for name, result in self.results.items():
                worst = ["%.2g" % o["rel_l2"] for o in list(result.get("outputs", {}).values())[:3]]
                line = [name, result.get("verdict"), worst, result.get("counts"), result.get("ms"), result.get("error")]
                file.write(" | ".join(map(str, line)) + "\n")
            for case, said in self.failed.items():
                file.write("not prepared | %s | %s\n" % (case, said))
            for job in self.pending:
                file.write("not done | %s\n" % job["id"])


def main():
    cases, out = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    work = os.environ.get("WORK", "/tmp/validation-work")
    os.makedirs(out, exist_ok=True)
    os.makedirs(os.path.join(work, "jobs"), exist_ok=True)
    todo = Work(cases, out, work, float(os.environ.get("BUDGET", "280")))
    threads = [threading.Thread(target=todo.prepare_all) for _ in range(PREPARERS)]
    threads += [threading.Thread(target=todo.build_all) for _ in range(int(os.environ.get("JOBS", "6")))]
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
