"""The three LightningModules, initial weights and the breakdown of metrics."""
