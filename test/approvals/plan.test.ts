import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';

let service: TestService;
let ada: TestUser;

beforeAll(async () => {
  service = await startTestService();
  ada = await service.user('ada');
  await ada.ask('mutation { updateOrchestrator(input: { planApprovalPolicy: ALWAYS }) { orchestrator { id } } }');
});
afterAll(() => service?.stop());

interface Asked {
  id: string;
  kind: string;
  arguments: unknown;
  argumentsHash: string;
}

/** Sends a message to the whole team and waits until its plan is to be approved. */
async function askForPlan(sessionId: string): Promise<{ planId: string; approval: Asked }> {
  const sent = await ada.ask(
    'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { message { plan { id } } } }',
    { input: { sessionId, content: 'Find facts about tea, then write a short note about them.' } },
  );
  expect(sent.errors).toEqual([]);
  return { planId: sent.data.sendMessage.message.plan.id, approval: await pending(sessionId) };
}

const pending = (sessionId: string): Promise<Asked> =>
  waitFor('the plan to be asked about', async () => {
    const { data } = await ada.ask(
      `query ($id: ID!) { approvals(states: [PENDING], sessionId: $id) {
        edges { node { id kind arguments argumentsHash plan { id } } } } }`,
      { id: sessionId },
    );
    return data.approvals.edges[0]?.node;
  });

const planIs = (id: string, state: string) =>
  waitFor(`the plan to be ${state}`, async () => {
    const { data } = await ada.ask('query ($id: ID!) { plan(id: $id) { state answer { content } } }', { id });
    return data.plan.state === state && data.plan;
  });

async function openSession(): Promise<string> {
  return (await ada.ask('mutation { createSession { session { id } } }')).data.createSession.session.id;
}

const decide = (variables: Record<string, unknown>) =>
  ada.ask(
    `mutation ($id: ID!, $hash: String, $edited: JSON, $remember: Boolean) {
      decideApproval(id: $id, decision: APPROVED, argumentsHash: $hash, editedArguments: $edited, remember: $remember) {
        approval { state } } }`,
    variables,
  );

describe('the approval of a plan', () => {
  it('is bound to the plan that was shown, and its arguments are not to be edited', async () => {
    const { planId, approval } = await askForPlan(await openSession());
    expect(approval).toMatchObject({ kind: 'PLAN', arguments: expect.any(Object), plan: { id: planId } });
    const edited = await decide({ id: approval.id, edited: {} });
    expect(edited.errors.map(({ extensions }) => extensions)).toEqual([
      { code: 'BAD_USER_INPUT', field: 'editedArguments' },
    ]);
    const other = await decide({ id: approval.id, hash: 'another' });
    expect(other.errors.map(({ extensions }) => extensions['code'])).toEqual(['APPROVAL_MISMATCH']);
    expect((await decide({ id: approval.id, hash: approval.argumentsHash })).errors).toEqual([]);
    expect(await planIs(planId, 'COMPLETED')).toMatchObject({ answer: { content: expect.any(String) } });
  });

  it('holds for the rest of the session when it is remembered', async () => {
    const session = await openSession();
    const { planId, approval } = await askForPlan(session);
    expect((await decide({ id: approval.id, remember: true })).errors).toEqual([]);
    await planIs(planId, 'COMPLETED');
    const second = await ada.ask(
      'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { message { plan { id } } } }',
      { input: { sessionId: session, content: 'Find facts about milk, then write a short note about them.' } },
    );
    await planIs(second.data.sendMessage.message.plan.id, 'COMPLETED');
    const { data } = await ada.ask(
      `query ($id: ID!) { session(id: $id) { approvals { edges { node { id } } } approvalGrants { edges { node { kind agent { id } } } } } }`,
      { id: session },
    );
    expect(data.session.approvals.edges).toHaveLength(1);
    expect(data.session.approvalGrants.edges).toEqual([{ node: { kind: 'PLAN', agent: null } }]);
  });

  it('that nobody gave in time can be asked for again, and the plan then runs', async () => {
    const session = await openSession();
    const { planId, approval } = await askForPlan(session);
    await service.database.owner(
      `UPDATE approvals SET expires_at = now() - interval '1 second' WHERE state = 'PENDING'`,
    );
    await planIs(planId, 'EXPIRED');
    const again = await ada.ask('mutation ($id: ID!) { requestAgain(id: $id) { approval { id } } }', {
      id: approval.id,
    });
    expect(again.errors).toEqual([]);
    const second = await pending(session);
    expect(second.id).not.toBe(approval.id);
    expect(second.argumentsHash).toBe(approval.argumentsHash);
    expect((await decide({ id: second.id })).errors).toEqual([]);
    await planIs(planId, 'COMPLETED');
  });
});
