"""The HTTP server: what image clients already speak, in front of the queue.

    /v1/...        OpenAI's Images API (openai_images.py)          /sdapi/v1/...   AUTOMATIC1111's (a1111.py)
    /api/...       our own: jobs, models, training (own.py)        /health /metrics /openapi.json

The server opens no model and loads no torch; it asks the queue and waits.  It fetches nothing: no URL is ever followed.
"""
