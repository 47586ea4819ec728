"""Everything with weights.  `denoiser.Denoiser` is the contract that joins our own models to every sampler."""
