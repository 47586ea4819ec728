"""The mathematics of diffusion: pure functions of tensors, no files, no devices, no global randomness.

Read in this order (docs/maths.md tells the same in words):

    schedule      noise levels: sigma, its two clocks (VP and flow), grids to sample on, levels to train on
    prediction    what a network's output means: x0 = skip * x + out * network(in * x)
    loss          one loss; the literature's losses are its weights
    samplers      from noise to picture: ddpm, ddim, euler, heun, dpm++2m
    guidance      from denoiser to denoiser: classifier-free, by a weaker model, clipped, kept where known

Everything speaks one language: a noisy picture is x = x0 + sigma * eps, and a model is model(x, sigma, cond) -> x0.
"""
