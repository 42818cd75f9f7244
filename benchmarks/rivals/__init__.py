"""The planner beside other searches for what has to stay in FP32: Polygraphy's and ModelOpt AutoCast's."""
