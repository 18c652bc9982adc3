"""The native core: request head, frames, JSON checks, send queues, hub and reactor. Mechanism only, no policy."""
