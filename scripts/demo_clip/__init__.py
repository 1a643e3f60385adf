"""Parts of scripts/train_demo_clip.py."""
