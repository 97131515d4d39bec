"""Turns a wire request into what the engine continues: conversation, template, token ids, media, sampling."""
