"""What is on the wire, as pydantic models; fields stand in the order of OpenAI's reference."""
