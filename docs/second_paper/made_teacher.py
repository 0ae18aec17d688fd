"""A stand-in for a teacher and for a judge, which makes its answers up.

  python docs/second_paper/made_teacher.py URL_FILE

It speaks OpenAI's interface on a free port of this machine and writes its URL
into URL_FILE. What it says depends on a hash of the question alone, so that no
figure that comes of it says anything about a model.
"""

import hashlib
import http.server
import json
import pathlib
import re
import sys


def made_answer(prompt: str) -> str:
  """An answer in the form that the prompt asks for."""
  dice = int(hashlib.sha256(prompt.encode()).hexdigest(), 16)
  question = prompt.rpartition("Question:")[2]
  if "Answer A:" in prompt:
    answer = ("A", "B", "tie")[dice % 3]
  elif "four rounds" in prompt:
    words = prompt.rpartition("Article:")[2].split()
    return json.dumps({"rounds": [
        {"missing_entities": words[n:n + 1],
         "summary": " ".join(words[:12 + 6 * n])} for n in range(4)]})
  elif "Hypothesis:" in prompt:
    answer = ("entailment", "neutral", "contradiction")[dice % 3]
  elif "Answer Choices:" in prompt:
    answer = "ABCDE"[dice % 5]
  elif "Question:" in prompt:
    answer = str(sum(map(int, re.findall(r"\d+", question))) or dice % 9)
  else:
    return f"You asked: {prompt.splitlines()[-1][:80]} I made this answer up."
  if "answer_choice" not in prompt:
    return answer
  return json.dumps({"reason": f"It was made up, by dice: {dice % 100}.",
                     "answer_choice": answer})


class Handler(http.server.BaseHTTPRequestHandler):

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["content-length"])))
    prompt = "\n".join(message["content"] for message in body["messages"])
    text = made_answer(prompt)
    reply = json.dumps({
        "id": "1", "object": "chat.completion", "created": 0, "model": "made",
        "usage": {"prompt_tokens": len(prompt) // 4,
                  "completion_tokens": len(text) // 4 + 1},
        "choices": [{"index": 0, "finish_reason": "stop",
                     "message": {"role": "assistant", "content": text}}]})
    self.send_response(200)
    self.send_header("content-type", "application/json")
    self.end_headers()
    self.wfile.write(reply.encode())

  def log_message(self, *unused_args):
    pass


if __name__ == "__main__":
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    pathlib.Path(sys.argv[1]).write_text(
        f"http://127.0.0.1:{server.server_port}/v1\n", "utf-8")
    server.serve_forever()
