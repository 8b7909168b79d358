"""Plain `nn.Module`s: no Lightning, no files, no configuration."""
