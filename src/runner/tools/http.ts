import { DomainError } from '../../errors.ts';
import type { ToolModel } from '../../generated/prisma/models.ts';
import { buildHttpRequest, type HttpToolSettings, selectResult } from '../../services/http-tool.ts';
import { redactSecrets, type Secrets } from '../../services/secret-box.ts';
import type { ToolResources } from '../../services/tool-resources.ts';
import { openSecrets } from '../../services/tool-secrets.ts';
import type { ExecutableTool } from '../tool.ts';

const resultTypes = ['application/json', 'application/*+json', 'text/*', 'application/xml', 'application/*+xml'];
/** How much of an answer that tells a failure the model is shown, in characters. */
const longestComplaint = 2_000;

/** Makes the request of an HTTP tool. Its secrets are opened for the call alone, and taken out of what comes back. */
export function callHttpTool(
  tool: ToolModel,
  settings: HttpToolSettings,
  resources: ToolResources,
): ExecutableTool['call'] {
  return async (given, context) => {
    const owner = { userId: context.run.operation.userId, table: 'tools' as const, rowId: tool.id };
    const secrets = openSecrets(resources.secrets, owner, tool);
    return await withoutSecrets(secrets, async () => {
      const request = buildHttpRequest(settings, { arguments: given, secrets }, context.idempotencyKey);
      const answer = await resources.outgoing.request({
        ...request,
        accepts: resultTypes,
        timeout: tool.timeoutSeconds * 1_000,
        signal: context.signal,
      });
      if (answer.status >= 400) {
        // Secrets come out before it is cut: a part of one would not be known any more.
        const complaint = redactSecrets(answer.text, secrets).slice(0, longestComplaint);
        throw new DomainError('TOOL_FAILED', `The other side answers with the status ${answer.status}: ${complaint}`);
      }
      return selectResult(settings, answer.text);
    });
  };
}

/** Does work whose result and failure hold none of the secrets, whoever wrote them into it. */
export async function withoutSecrets(secrets: Secrets, work: () => Promise<string>): Promise<string> {
  try {
    return redactSecrets(await work(), secrets);
  } catch (error) {
    // A cause may hold them too, and is of no use to the model.
    throw error instanceof DomainError ? new DomainError(error.code, redactSecrets(error.message, secrets)) : error;
  }
}
