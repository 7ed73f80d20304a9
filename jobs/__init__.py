"""Run specifications, one YAML file per recipe, and the entry points a Ray job runs."""
