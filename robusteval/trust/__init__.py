"""Whether a run's numbers can be trusted: what can be made again is, findings say the rest."""
