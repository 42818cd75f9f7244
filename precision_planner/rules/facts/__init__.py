"""What a rule can ask of a model: subjects, the facts of each, and the evidence that they are read from."""

from precision_planner.rules.facts import of_lowering, of_sampling, of_subjects, of_tensors, of_values

# their import fills the registry of facts
_FACT_MODULES = (of_lowering, of_sampling, of_subjects, of_tensors, of_values)
