"""The style sheet of `report`'s HTML pages: readable on paper, on a phone, in the dark.

In the dark, charts stay on white cards: inverting them would change what their colours mean.
"""

STYLE = """
:root{--ink:#1f2933;--soft:#52606d;--faint:#9aa5b1;--line:#e4e7eb;--paper:#f7f8fa;--card:#fff;--accent:#2a6fbb}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebef;--soft:#a9b4c0;--faint:#7b8794;--line:#2f3944;--paper:#14191f;--card:#1c232b;--accent:#6aa9ea}
figure{filter:brightness(.94)}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.6 Inter,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1080px;margin:0 auto;padding:48px 24px 32px}
header{border-left:4px solid var(--accent);padding-left:18px;margin-bottom:36px}
h1{font-size:2rem;line-height:1.2;letter-spacing:-.015em;margin:0;overflow-wrap:anywhere}
.lead{color:var(--soft);font-size:1.1rem;margin:8px 0 0}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:26px 28px;margin:0 0 22px}
h2{font-size:1.25rem;line-height:1.3;letter-spacing:-.01em;margin:0 0 12px;overflow-wrap:anywhere}
.text{max-width:68ch;overflow-wrap:anywhere}.text>:first-child{margin-top:0}.text>:last-child{margin-bottom:0}
.text a{color:var(--accent)}.text pre{overflow:auto;background:var(--paper);padding:12px 14px;border-radius:8px}
.text code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.text blockquote{margin:1em 0;padding-left:14px;border-left:3px solid var(--line);color:var(--soft)}
section>*+*{margin-top:18px}section>h2+*{margin-top:0}
.metrics{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:14px;margin-bottom:0}
.metric{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.metric dt{color:var(--soft);font-size:.82rem}
.metric dd{margin:2px 0 0;font-size:1.55rem;font-weight:650;letter-spacing:-.02em;line-height:1.25;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
figure{margin:0;background:#fff;border-radius:10px;overflow:hidden;text-align:center}
figure img{max-width:100%;height:auto;display:block;margin:0 auto}
.gallery{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:14px}
.gallery figure{border:1px solid var(--line)}
.table{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th{color:var(--soft);font-weight:600;text-align:left;border-bottom:2px solid var(--line);white-space:nowrap}
th,td{padding:8px 14px 8px 0}th:last-child,td:last-child{padding-right:2px}
td{border-bottom:1px solid var(--line);vertical-align:top}tbody tr:last-child td{border-bottom:0}
.n{text-align:right}
.more{color:var(--faint);font-size:.86rem;margin:10px 0 0}
footer{color:var(--faint);font-size:.82rem;padding:10px 4px;overflow-wrap:anywhere}
@media (max-width:640px){main{padding:28px 14px}section{padding:20px 18px}h1{font-size:1.55rem}}
@media print{body{background:#fff;font-size:11pt}main{max-width:none;padding:0}section{border:0;padding:0;margin-bottom:24pt}
section,figure,tr{break-inside:avoid}h2{break-after:avoid}figure{filter:none}}
"""
