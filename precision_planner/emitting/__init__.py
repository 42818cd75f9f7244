"""What the planner writes for others: builds, engines, model repositories."""
