"""Step 3: Claude writes the email, and what can be checked of its answer is checked."""

from uuid import uuid5

from services.core.claude.protocol import ClaudeReply, ClaudeRequest
from services.pipelines.definition import StepContext
from services.pipelines.fences import Fenced, element, escape, lines, unescape
from services.pipelines.outreach_email.answer import ComposedEmail, check_answer
from services.pipelines.outreach_email.parse_template import describe_person
from services.pipelines.outreach_email.placeholders import fill
from services.pipelines.outreach_email.prompts import PROMPTS
from services.pipelines.outreach_email.schemas import (
    EmailMetadata,
    Findings,
    OutreachEmail,
    Source,
    SourceNote,
)
from services.pipelines.sources import SourceStatus

MAX_TOKENS = 8192


async def compose_email(findings: Findings, context: StepContext) -> OutreachEmail:
    """Let Claude complete the template from what was found.

    Raises:
        ClaudeMalformedAnswerError: The answer leaves a mark, cites a source that was not given or
            holds a value, number or link that nobody gave.
    """
    request = ClaudeRequest(
        system=PROMPTS.system("compose_email"),
        prompt=_prompt(findings),
        max_tokens=MAX_TOKENS,
        allows_fallback=True,
    )
    reply = await context.claude.ask(request, ComposedEmail)
    composed = _unescaped(reply.answer)
    check_answer(composed, findings)
    return OutreachEmail(
        email_id=uuid5(context.run_id, "email"),
        subject=composed.subject,
        body=composed.body,
        template_type=findings.brief.input.template_type,
        metadata=_metadata(reply, composed, findings),
    )


def _prompt(findings: Findings) -> str:
    brief = findings.brief
    return PROMPTS.user(
        "compose_email",
        template_type=escape(brief.input.template_type),
        template=escape(fill(brief.input.template, brief.known)),
        recipient=describe_person(brief.input.recipient),
        sender=describe_person(brief.input.sender),
        to_find=lines(
            *(element("find", gap.question, placeholder=gap.placeholder) for gap in brief.gaps)
        ),
        leave_out=lines(*(element("placeholder", name) for name in brief.unknowable)),
        sources=lines(
            *(
                _source_element(source)
                for source in findings.sources
                if source.status is SourceStatus.FOUND
            )
        ),
    )


def _source_element(source: Source) -> Fenced:
    return element(
        "source", f"\n{source.text}\n", id=source.id, url=source.url, title=source.title or ""
    )


def _unescaped(answer: ComposedEmail) -> ComposedEmail:
    """The answer with `<` where Claude copied the prompt's `&lt;`."""
    filled = [
        entry.model_copy(update={"value": unescape(entry.value).strip()}) for entry in answer.filled
    ]
    return answer.model_copy(
        update={
            "subject": " ".join(unescape(answer.subject).split()),
            "body": unescape(answer.body).strip(),
            "filled": filled,
        }
    )


def _metadata(
    reply: ClaudeReply[ComposedEmail], composed: ComposedEmail, findings: Findings
) -> EmailMetadata:
    brief = findings.brief
    filled = {entry.placeholder: entry.value for entry in composed.filled}
    wanted = (*(gap.placeholder for gap in brief.gaps), *brief.unknowable)
    cited = {*composed.source_ids, *(entry.source_id for entry in composed.filled)}
    return EmailMetadata(
        simulated=reply.is_simulated,
        model=reply.model,
        sources=tuple(
            SourceNote(
                url=source.url,
                status=source.status,
                reason=source.reason,
                title=source.title,
                cited=source.id in cited,
            )
            for source in findings.sources
        ),
        filled=brief.known | filled,
        left_out=tuple(name for name in wanted if name not in filled),
    )
