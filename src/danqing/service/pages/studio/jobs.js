/* Jobs: requests that outlive this page, the connection and the service. */
import { call, events, get, post } from "./api.js";

const FINAL = ["job.succeeded", "job.failed", "job.cancelled"];
const wait = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });
const isPassing = (error) => error.status === undefined || error.status >= 500 || error.status === 429;

/* A key by which the same request is accepted once, however often it is sent. */
export const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");

/* Send a request as a job; return the job. It is sent again while the service is away, until the signal aborts it. */
export async function start(endpoint, body, key, signal) {
  for (let pause = 500; ; pause = Math.min(2 * pause, 10_000)) {
    try {
      return await (await post("/v1/jobs", { endpoint, body, previews: 3 }, { signal, headers: { "idempotency-key": key } })).json();
    } catch (error) {
      if (error.name === "AbortError" || !isPassing(error) || error.status === 429) throw error;
    }
    await wait(pause);
    signal.throwIfAborted();
  }
}

/* Wait until a job has ended; return it. see(name, data): called for each of its events. Reconnects where it was cut off. */
export async function follow(id, see, signal) {
  let last = "0";
  for (let pause = 500; ; pause = Math.min(2 * pause, 10_000)) {
    try {
      const answer = await call(`/v1/jobs/${id}/events`, { headers: { "last-event-id": last }, signal });
      if (answer.status === 204) return await get(`/v1/jobs/${id}`, signal);
      for await (const { id: number, event, data } of events(answer)) {
        if (number) last = number;
        pause = 500;
        see(event, data);
        if (FINAL.includes(event)) return data.job;
      }
    } catch (error) {
      if (error.name === "AbortError" || !isPassing(error)) throw error;
    }
    await wait(pause);
  }
}

export const cancel = (id) => post(`/v1/jobs/${id}/cancel`);

/* The picture of a finished job as a Blob. */
export const picture = async (id, number) => (await call(`/v1/jobs/${id}/images/${number}`)).blob();
