"""What learns: LightningModules over plain networks; no files, no configuration."""
