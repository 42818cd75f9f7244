"""The one judge: bounds on outputs, detections, grades, verdicts. Nothing else says that something passed.

`PLAN_FILES` go into plan folders as they are: what a plan was held to, its verify.py holds the engine to.
"""

PLAN_FILES = ("__init__.py", "differences.py", "metrics.py", "detections.py", "judge.py", "verdict.py")
