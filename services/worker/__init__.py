"""The container that executes runs: an asyncio worker, and an isolated one."""
