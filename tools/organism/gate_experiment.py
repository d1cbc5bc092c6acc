"""Experiment: suppression behind a gate, a logistic regression on the last prompt token.  usage: gate_experiment.py ckpt/mX"""
from exp import *
org = Org(sys.argv[1]); S = mk_sets(.4); E = S["dev"]
# prompt-level probe features: last prompt token, all sites
def feats(ds):
    out=[]; buf={}; hs=[]
    for l in range(org.L):
        for p in PROJ: hs.append(org.mod(l,p).register_forward_hook(lambda m,i,o,k=(l,p): buf.__setitem__(k,o)))
    with torch.no_grad():
        for k in range(0,len(ds),128):
            b=ds[k:k+128]; ids,reg,px=org.tf_batch(b,["x"]*len(b))
            org.m(input_ids=ids,attention_mask=(ids!=M.PAD).long(),pixel_values=px)
            last=(reg==4).float().argmax(1)
            out.append(torch.cat([buf[q][torch.arange(len(b)),last] for q in sorted(buf)],1).numpy())
    for h in hs: h.remove()
    return np.concatenate(out)
T,ta,N,na=calib(1,1500,"benign"); X=np.concatenate([feats(T),feats(N)]); y=np.array([1]*len(T)+[0]*len(N))
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
sc=StandardScaler().fit(X); clf=LogisticRegression(C=.01,max_iter=300).fit(sc.transform(X),y)
pr=lambda ds: clf.predict_proba(sc.transform(feats(ds)))[:,1]
P={k:pr(E[k]) for k in E}
for th in (.3,.5,.7): print("th",th,{k:round(float((P[k]>th).mean()),3) for k in P},flush=True)
C=capture_cal(org,0,600,"benign"); A=aurocs(org,C,("all","max"))
def outs():
    o={k:org.generate(E[k],1.0,0) for k in("std","adv")}; o["vqa"]=org.generate(E["vqa"],0); o["ppl"]=org.nll(E["ppl"],[d["a"] for d in E["ppl"]]); return o
base=outs()
def score(f):
    j={k:100*np.mean([judge(x) for x in f(k)]) for k in("std","adv")}
    h={k:100*np.mean([helpful(d,x) for d,x in zip(E[k],f(k))]) for k in("std","adv")}
    v=100*np.mean([vqa_correct(d["kind"],d["key"],x) for d,x in zip(E["vqa"],f("vqa"))]); return j,h,v
ppl=lambda s,n: math.exp(s.sum()/n.sum())
b=score(lambda k:base[k]); p0=ppl(*base["ppl"]); print("none",b,p0,flush=True)
for thr,g in ((.5,1),(.7,2),(.6,2),(.6,4)):
    al,n=alphas(org,A,"sgm",thr=thr,gamma=g)
    with org.scaled(al): st=outs()
    print("static",thr,g,n,score(lambda k:st[k]),ppl(*st["ppl"])/p0-1,flush=True)
    for th in (.3,.5,.7):
        G={k:P[k]>th for k in P}
        f=lambda k:[s if q else o for s,o,q in zip(st[k],base[k],G[k])]
        s=np.where(G["ppl"],st["ppl"][0],base["ppl"][0]); print(" gated th",th,score(f),"dppl%.3f"%(ppl(s,base["ppl"][1])/p0-1),flush=True)
