"""The Studio: one prompt box in a browser, the rest folded away; a face of the same queue and server as all others.

    run.py        `bowerbird studio`: a page at once, the Studio when Gradio has loaded
    app.py        the page: its tabs
    form.py       fields of a painting request as components; their help and bounds are the request's own
    painting.py   prompt in, pictures out, a preview on the way; the final words before and after
    source.py     a picture to start from, what of it is painted anew, words for it
    words.py      what the page says of a job
    gallery.py    everything painted here: search, compare, settings again, a bin
    training.py   a folder of pictures, what is in it, a run, its curves
    waiting.py    the queue

Faces import requests, progress and jobs, and never torch.
"""
