"""The public names as users' type checkers see them; checked by mypy and pyright, never run."""

from __future__ import annotations

import asyncio
from typing import assert_type

import openai
from openai.types.responses import Response, ResponseUsage

import bgmagic


def script() -> str:
    """A job is a future of an answer, and an answer is a str."""
    job = bgmagic.submit(
        "Why?",
        model="gpt-5.2",
        effort="high",
        instructions="Be brief.",
        max_output_tokens=2000,
        poll=5,
        deadline="12h",
        messages=[{"role": "user", "content": "Hello"}],
        param={"reasoning.summary": "auto"},
    )
    assert_type(job, bgmagic.Job)
    assert_type(job.status, str)
    assert_type(job.response_id, str | None)
    assert_type(job.response, Response | None)
    assert_type(job.usage, ResponseUsage | None)
    if job.response is not None:
        assert_type(job.response.output_text, str)
    assert_type(job.elapsed, float)
    assert_type(job.cancel(), bool)
    assert_type(job.resend(), bgmagic.Job)
    job.add_done_callback(lambda future: print(future.result()))
    if job.status == bgmagic.Status.COMPLETED:
        return job.text
    answer = job.result(timeout=60)
    assert_type(answer, bgmagic.Answer)
    assert_type(answer.model, str | None)
    assert_type(answer.response, Response)
    assert_type(answer.usage, ResponseUsage | None)
    assert_type(answer.commentary, str)
    return answer.upper()


async def program() -> list[str]:
    """Jobs can be awaited and gathered."""
    assert_type(await bgmagic.submit("One?"), bgmagic.Answer)
    answers = await asyncio.gather(bgmagic.submit("Two?"), bgmagic.submit("Three?"))
    try:
        return [str(answer) for answer in answers]
    except bgmagic.JobFailed as error:
        assert_type(error.job, bgmagic.Job)
        return [job.text for job in bgmagic.jobs(past=True)]


def own_client() -> None:
    """A client of the SDK's is taken."""
    bgmagic.use(openai.AzureOpenAI())
    bgmagic.use(None)
